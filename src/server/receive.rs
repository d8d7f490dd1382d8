//! Values on their way in. A value of up to one chunk is gathered in a buffer of its own; any larger one goes to
//! an extent file chunk by chunk as it arrives. The worker writes chunks itself, as many at once as have arrived, up to
//! four, out of a buffer that all its connections share: a connection keeps at most one between turns. While
//! the disk is slow, the disk lane does, at most two chunks of a connection at once: while both are there, nothing more is
//! read and TCP holds the client back.
//!
//! A value that has a file alone, and that cannot be compressed, is gathered in a run of chunks instead, by way of that same
//! buffer, and the lane writes that past the page cache, if so little memory is taken that two megabytes more do not matter. So a
//! transfer takes the same memory whatever its size.

use super::answer::{self, Facts, Form, Said, tell};
use super::context::{Context, Step, Waiting};
use super::inbox::Answer;
use super::input::Input;
use super::proto::text::Verb;
use super::reply;
use super::storage::{Store, Value};
use super::verdict::{Supply, conclude};
use kingdb::Error;
use kingdb::store::{AT_ONCE, CHUNK, ChunkWritten, Run, RunWritten, Upload, Uploaded};
use kingdb::sys::socket::Stream;
use std::io;

/// Chunks of one upload on the disk lane at once.
const IN_FLIGHT: usize = 2;

/// Memory of one upload at most: those, and the one that is being filled. (It has a [`Run`] instead only where memory is
/// plenty.) Bytes.
pub const UPLOAD: usize = (IN_FLIGHT + 1) * CHUNK;

/// The command a value belongs to, owned: its line is gone when the value is complete.
struct Order {
    key: Box<[u8]>,
    /// What the answer repeats of the line.
    repeats: Box<[u8]>,
    /// The rest of it.
    store: Store<'static>,
}

impl Order {
    fn new(store: &Store<'_>) -> Self {
        let Store { verb, key, flags, expires, cas, more, form } = *store;
        let rest = Store { verb, key: &[], flags, expires, cas, more, form: form.with(&[]) };
        Self { key: key.into(), repeats: form.borrowed().into(), store: rest }
    }

    fn store(&self) -> Store<'_> {
        Store { key: &self.key, form: self.store.form.with(&self.repeats), ..self.store }
    }
}

/// Where the next bytes of a value are to be read to.
pub struct Sink<'a> {
    body: &'a mut Vec<u8>,
    /// So many of them.
    want: usize,
    behind: Behind<'a>,
}

/// Where those behind them are to be read to.
enum Behind<'a> {
    /// They are not to be read yet.
    Nothing,
    /// The value ends: to where commands are read.
    Input,
    /// More of the value.
    Value(&'a mut [u8]),
}

/// How many bytes were read to where.
pub struct Came {
    body: usize,
    ahead: usize,
    /// Behind the value.
    pub input: usize,
}

impl Came {
    /// So many, and none of a value.
    pub fn to_input(input: usize) -> Came {
        Came { body: 0, ahead: 0, input }
    }

    /// Altogether.
    pub fn all(&self) -> usize {
        self.body + self.ahead + self.input
    }
}

impl Sink<'_> {
    /// One read: at most `most` bytes of the value, and to `input` what follows it. Also tells how many bytes it asked for.
    pub fn receive(self, stream: &Stream, input: &mut [u8], most: usize) -> (usize, io::Result<Came>) {
        let want = self.want.min(most);
        let (rest, is_value) = match self.behind {
            Behind::Nothing => (&mut [][..], false),
            Behind::Input => (input, false),
            Behind::Value(more) => (more, true),
        };
        let room = if is_value { most } else { rest.len() };
        let rest_len = rest.len().min(room.saturating_sub(want));
        let came = |n: usize| match (n.min(want), n.saturating_sub(want)) {
            (body, ahead) if is_value => Came { body, ahead, input: 0 },
            (body, input) => Came { body, ahead: 0, input },
        };
        (want + rest_len, stream.recv_split(self.body, want, &mut rest[..rest_len]).map(came))
    }
}

/// A value gathered in memory, with its line end.
pub struct Gathering {
    order: Order,
    bytes: Vec<u8>,
    /// Value and line end.
    want: usize,
}

impl Gathering {
    /// For a value of `len` bytes.
    pub fn new(store: &Store<'_>, len: usize) -> Self {
        Self { order: Order::new(store), bytes: Vec::new(), want: len + store.form.tail() }
    }

    /// Where to read the next bytes to.
    pub fn sink(&mut self) -> Option<Sink<'_>> {
        let want = self.want - self.bytes.len();
        (want > 0).then_some(Sink { body: &mut self.bytes, want, behind: Behind::Input })
    }

    /// Takes what has arrived; executes the command once all has.
    pub fn step(&mut self, input: &mut Input<'_>, supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Step {
        let missing = self.want - self.bytes.len();
        if missing > 0 {
            self.bytes.reserve_exact(missing);
            self.bytes.extend_from_slice(input.take(missing));
        }
        if self.bytes.len() < self.want {
            return Step::Wait(Waiting::Input);
        }
        store_block(&self.order.store(), &self.bytes, supply, ctx)
    }

    /// Memory it holds. Bytes.
    pub fn holds(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Executes a storage command whose data block has arrived whole, its line end included.
#[inline]
pub fn store_block(store: &Store<'_>, block: &[u8], supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Step {
    let (value, end) = block.split_at(block.len() - store.form.tail());
    if !end.is_empty() && end != reply::LINE_END {
        bad_chunk(store, ctx);
        return Step::Done;
    }
    if let Err(waiting) = ctx.may_write() {
        return Step::Wait(waiting);
    }
    let attempt = store.execute(Value::Bytes(value), supply.take(), ctx);
    match conclude(attempt, &store.form, store.key, ctx) {
        Ok(()) => Step::Done,
        Err(waiting) => Step::Wait(waiting),
    }
}

#[cold]
fn bad_chunk(store: &Store<'_>, ctx: &mut Context) {
    ctx.refused(store.key, reply::BAD_CHUNK);
    tell(&store.form, store.key, Said::BadChunk, &Facts::default(), ctx);
}

/// A large value on its way to an extent file.
pub struct Uploading {
    order: Order,
    stage: Stage,
}

enum Stage {
    Receiving(Receiving),
    /// It is whole; the command is being executed.
    Received(Uploaded),
    /// Nothing came of it.
    Over,
}

struct Receiving {
    upload: Upload,
    /// Bytes of the value still to come.
    left: u64,
    /// The chunk being filled.
    chunk: Vec<u8>,
    /// Bytes of the value that follow it, in the worker's buffer: only until they are written in the same turn.
    ahead: usize,
    /// What is written past the page cache, instead of it.
    runs: Runs,
    /// A chunk's buffer that came back from the lane.
    spare: Option<Vec<u8>>,
    in_flight: usize,
    /// Why nothing will come of it; what still arrives is thrown away.
    failed: Option<Error>,
    /// Whether the line end behind the value has arrived, and was one.
    ended: Option<bool>,
}

/// What is written past the page cache.
enum Runs {
    /// Nothing is.
    Nothing,
    Filling(Run),
    /// One run is on the lane, and another one may follow.
    Writing,
}

impl Uploading {
    /// For a value of `len` bytes.
    pub fn new(store: &Store<'_>, len: u64, ctx: &Context) -> Result<Self, Error> {
        let receiving = Receiving {
            upload: ctx.db.upload(len)?,
            left: len,
            chunk: Vec::new(),
            ahead: 0,
            runs: Runs::Nothing,
            spare: None,
            in_flight: 0,
            failed: None,
            ended: if let Form::Binary(_) = store.form { Some(true) } else { None },
        };
        Ok(Self { order: Order::new(store), stage: Stage::Receiving(receiving) })
    }

    /// Where to read the next bytes to; `None`: nowhere now. Tell [`Uploading::sunk`] how many came, and step.
    pub fn sink<'a>(&'a mut self, ctx: &'a mut Context) -> Option<Sink<'a>> {
        match &mut self.stage {
            Stage::Receiving(receiving) => receiving.sink(ctx),
            Stage::Received(_) | Stage::Over => None,
        }
    }

    /// This was read: to the sink, if there was one.
    pub fn sunk(&mut self, came: &Came, ctx: &mut Context) {
        if let Stage::Receiving(receiving) = &mut self.stage {
            receiving.sunk(came, ctx);
        }
    }

    /// Memory it holds, or soon will: what [`UPLOAD`] says as long as chunks come. Bytes.
    pub fn holds(&self) -> usize {
        match &self.stage {
            Stage::Receiving(Receiving { runs: Runs::Nothing, .. }) => UPLOAD,
            Stage::Receiving(_) => Run::TAKES,
            Stage::Received(_) | Stage::Over => 0,
        }
    }

    /// The lane's answer to a chunk.
    pub fn written(&mut self, written: ChunkWritten) {
        match &mut self.stage {
            Stage::Receiving(receiving) => receiving.written(written),
            Stage::Received(_) | Stage::Over => unreachable!("nothing is in flight"),
        }
    }

    /// The lane's answer to a run.
    pub fn ran(&mut self, written: RunWritten) {
        match &mut self.stage {
            Stage::Receiving(receiving) => receiving.ran(written),
            Stage::Received(_) | Stage::Over => unreachable!("nothing is in flight"),
        }
    }

    /// Passes on what has arrived; executes the command once all has.
    pub fn step(&mut self, input: &mut Input<'_>, supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Step {
        if let Stage::Receiving(receiving) = &mut self.stage {
            if let Verb::Part = self.order.store.verb {
                ctx.shared.multiparts.touch(&self.order.key, ctx.now);
            }
            if let Err(waiting) = receiving.step(input, ctx) {
                return Step::Wait(waiting);
            }
            if let Err(refusal) = self.finish() {
                refusal.tell(&self.order.store(), ctx);
                return Step::Done;
            }
        }
        let Stage::Received(uploaded) = &self.stage else { unreachable!("finished above") };
        if let Err(waiting) = ctx.may_write() {
            return Step::Wait(waiting);
        }
        let store = self.order.store();
        let attempt = store.execute(Value::Uploaded(uploaded), supply.take(), ctx);
        match conclude(attempt, &store.form, store.key, ctx) {
            Ok(()) => Step::Done,
            Err(waiting) => Step::Wait(waiting),
        }
    }

    /// The value has arrived and nothing is in flight: was it right?
    fn finish(&mut self) -> Result<(), Refusal> {
        let Stage::Receiving(receiving) = std::mem::replace(&mut self.stage, Stage::Over) else {
            unreachable!("matched by the caller");
        };
        match (receiving.failed, receiving.ended) {
            (Some(error), _) => Err(Refusal::Store(error)),
            (None, Some(true)) => {
                self.stage = Stage::Received(receiving.upload.finish());
                Ok(())
            }
            (None, _) => Err(Refusal::BadChunk),
        }
    }
}

/// Why a value that was received is not stored.
enum Refusal {
    BadChunk,
    Store(Error),
}

impl Refusal {
    fn tell(self, store: &Store<'_>, ctx: &mut Context) {
        match self {
            Refusal::BadChunk => bad_chunk(store, ctx),
            Refusal::Store(error) => answer::fail(&store.form, &error, ctx),
        }
    }
}

/// The worker's buffer for chunks that come at once.
fn batch(ctx: &mut Context) -> &mut [u8] {
    ctx.batch.resize(AT_ONCE * CHUNK, 0);
    &mut ctx.batch
}

impl Receiving {
    fn sink<'a>(&'a mut self, ctx: &'a mut Context) -> Option<Sink<'a>> {
        match &self.runs {
            Runs::Nothing => self.sink_of_chunks(ctx),
            Runs::Filling(run) => {
                let room = run.room().min(AT_ONCE * CHUNK);
                Some(Sink { body: &mut self.chunk, want: 0, behind: Behind::Value(&mut batch(ctx)[..room]) })
            }
            Runs::Writing => None,
        }
    }

    fn sink_of_chunks<'a>(&'a mut self, ctx: &'a mut Context) -> Option<Sink<'a>> {
        let want = self.wanted();
        if want == 0 || self.failed.is_some() {
            return None;
        }
        self.make_room(want, ctx);
        let behind = match usize::try_from(self.left).unwrap_or(usize::MAX) - want {
            0 => Behind::Input,
            _ if !self.may_write(ctx) => Behind::Nothing,
            left => Behind::Value(&mut batch(ctx)[CHUNK..][..left.min((self.upload.at_once() - 1) * CHUNK)]),
        };
        Some(Sink { body: &mut self.chunk, want, behind })
    }

    fn sunk(&mut self, came: &Came, ctx: &mut Context) {
        self.left -= (came.body + came.ahead) as u64;
        match &mut self.runs {
            Runs::Filling(run) => {
                let chunks = self.upload.fill(run, &ctx.batch[..came.ahead]);
                (ctx.chunks, ctx.progressed) = (ctx.chunks + chunks, ctx.progressed || chunks > 0);
            }
            Runs::Nothing | Runs::Writing => self.ahead = came.ahead,
        }
    }

    /// How many bytes the chunk lacks.
    fn wanted(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX).min(CHUNK - self.chunk.len())
    }

    /// Whether what comes now will be written by the worker itself, in this turn.
    fn may_write(&self, ctx: &Context) -> bool {
        self.in_flight == 0 && self.upload.is_fast() && ctx.may_move_chunks() && ctx.db.has_room()
    }

    /// A buffer for that, one that was used before if there is one.
    fn make_room(&mut self, wanted: usize, ctx: &mut Context) {
        if self.chunk.capacity() == 0 {
            self.chunk = self.spare.take().unwrap_or_else(|| std::mem::take(&mut ctx.chunk));
        }
        self.chunk.reserve_exact(wanted);
    }

    fn written(&mut self, written: ChunkWritten) {
        self.in_flight -= 1;
        match self.upload.done(written) {
            Ok(buffer) => self.spare = Some(buffer),
            Err(error) => self.failed = Some(error),
        }
    }

    fn ran(&mut self, written: RunWritten) {
        self.in_flight -= 1;
        self.runs = Runs::Nothing;
        match self.upload.run_done(written) {
            Ok(Some(run)) => self.runs = Runs::Filling(run),
            Ok(None) => {}
            Err(error) => self.failed = Some(error),
        }
    }

    /// Takes what has arrived. `Ok`: all of it, and no chunk is in flight any more.
    fn step(&mut self, input: &mut Input<'_>, ctx: &mut Context) -> Result<(), Waiting> {
        loop {
            self.begin_run(ctx);
            match &self.runs {
                Runs::Writing => return Err(Waiting::Lane),
                Runs::Filling(run) if run.is_full() => self.hand_over_run(ctx)?,
                Runs::Filling(_) => self.fill_run(input, ctx)?,
                Runs::Nothing if self.left == 0 && self.chunk.is_empty() => break,
                Runs::Nothing => self.step_chunk(input, ctx)?,
            }
        }
        if self.ended.is_none() {
            self.end(input)?;
        }
        if self.in_flight > 0 { Err(Waiting::Lane) } else { Ok(()) }
    }

    /// From now on, what comes is to be written past the page cache, if it can be and there is memory to spare.
    fn begin_run(&mut self, ctx: &mut Context) {
        let is_busy = self.in_flight > 0 || self.ahead > 0 || !matches!(self.runs, Runs::Nothing);
        if is_busy || self.left == 0 || self.failed.is_some() || !ctx.shared.memory.is_plenty(Run::TAKES) {
            return;
        }
        if let Some(mut run) = self.upload.begin_run() {
            self.upload.fill(&mut run, &self.chunk);
            self.chunk.clear();
            self.spare = None;
            if self.chunk.capacity() > 0 {
                ctx.chunk = std::mem::take(&mut self.chunk);
            }
            self.runs = Runs::Filling(run);
        }
    }

    fn fill_run(&mut self, input: &mut Input<'_>, ctx: &mut Context) -> Result<(), Waiting> {
        let Runs::Filling(run) = &mut self.runs else { unreachable!("matched by the caller") };
        if input.is_empty() {
            return Err(if ctx.may_move_chunks() { Waiting::Input } else { Waiting::Turn });
        }
        let came = input.take(run.room());
        self.left -= came.len() as u64;
        ctx.chunks += self.upload.fill(run, came);
        Ok(())
    }

    fn hand_over_run(&mut self, ctx: &mut Context) -> Result<(), Waiting> {
        if !ctx.db.has_room() {
            return Err(Waiting::Room);
        }
        if let Runs::Filling(run) = std::mem::replace(&mut self.runs, Runs::Writing) {
            let write = self.upload.run(run);
            ctx.submit_scan(move || Answer::Ran(write.run()));
            self.in_flight += 1;
        }
        Ok(())
    }

    fn step_chunk(&mut self, input: &mut Input<'_>, ctx: &mut Context) -> Result<(), Waiting> {
        if self.left == 0 || self.chunk.len() >= CHUNK {
            return self.pass_on(ctx);
        }
        if input.is_empty() {
            return Err(Waiting::Input);
        }
        self.fill(input, ctx);
        Ok(())
    }

    fn fill(&mut self, input: &mut Input<'_>, ctx: &mut Context) {
        if self.failed.is_some() {
            self.chunk.clear();
            return ctx.skip(input, &mut self.left);
        }
        let bytes = input.take(self.wanted());
        self.make_room(bytes.len(), ctx);
        self.chunk.extend_from_slice(bytes);
        self.left -= bytes.len() as u64;
    }

    /// Writes what is whole, which ends the connection's turn; or gives a chunk to the disk lane, where it may sleep.
    fn pass_on(&mut self, ctx: &mut Context) -> Result<(), Waiting> {
        if self.failed.is_some() {
            ctx.progressed = true;
            self.chunk.clear();
            return Ok(());
        }
        let writes = self.ahead > 0 || self.upload.is_fast();
        let most = if self.upload.has_file() { IN_FLIGHT } else { 1 };
        if self.in_flight >= most && !writes {
            return Err(Waiting::Lane);
        }
        if self.ahead == 0 && !ctx.db.has_room() {
            return Err(Waiting::Room);
        }
        if self.ahead == 0 && writes && !ctx.may_move_chunks() {
            return Err(Waiting::Turn);
        }
        ctx.progressed = true;
        match writes {
            true => self.write(ctx),
            false => self.hand_over(ctx),
        }
        if writes && self.left > 0 { Err(Waiting::Turn) } else { Ok(()) }
    }

    fn write(&mut self, ctx: &mut Context) {
        let all = self.chunk.len() + std::mem::take(&mut self.ahead);
        let whole = if self.left == 0 { all } else { all - all % CHUNK };
        ctx.chunks += whole.div_ceil(CHUNK);
        if all == self.chunk.len() {
            self.failed = self.upload.write_now(&self.chunk).err();
            self.chunk.clear();
        } else {
            let batch = batch(ctx);
            batch[..CHUNK].copy_from_slice(&self.chunk);
            self.failed = self.upload.write_now(&batch[..whole]).err();
            self.chunk.clear();
            self.chunk.extend_from_slice(&batch[whole..all]);
        }
        if self.chunk.is_empty() {
            ctx.chunk = std::mem::take(&mut self.chunk);
        }
    }

    fn hand_over(&mut self, ctx: &mut Context) {
        let write = self.upload.chunk(std::mem::take(&mut self.chunk));
        ctx.submit(move || Answer::Written(write.run()));
        (self.in_flight, ctx.chunks) = (self.in_flight + 1, ctx.chunks + 1);
    }

    fn end(&mut self, input: &mut Input<'_>) -> Result<(), Waiting> {
        if input.rest().len() < reply::LINE_END.len() {
            return Err(Waiting::Input);
        }
        self.ended = Some(input.take(reply::LINE_END.len()) == reply::LINE_END);
        Ok(())
    }
}
