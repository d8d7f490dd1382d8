//! The transitions of a connection's state machine: what comes in decides what comes next. Between reading and sending,
//! which are the parent's; a step executes at most one command, or moves up to 16 chunks.

use super::*;

impl Connection {
    /// One step of the state machine.
    #[inline]
    pub(super) fn step(&mut self, input: &mut Input<'_>, ctx: &mut Context) -> Step {
        match &mut self.state {
            State::Command => self.step_command(input, ctx),
            State::Keys(keys) => {
                let step = keys.step(input, &mut self.supply, ctx);
                self.after_keys(step)
            }
            State::Request => self.step_request(input, ctx),
            State::First => self.step_first(input, ctx),
            State::Login => self.step_login(input, ctx),
            State::SkipLine => self.step_skip_line(input),
            State::Swallow(left) => {
                ctx.skip(input, left);
                let over = *left == 0;
                self.command_if(over)
            }
            State::Gather(gathering) => {
                let step = gathering.step(input, &mut self.supply, ctx);
                self.command_when_done(step)
            }
            State::Upload(uploading) => {
                let step = uploading.step(input, &mut self.supply, ctx);
                self.command_when_done(step)
            }
            // What the peer does not take now is not read now.
            State::Stream(streaming) if !self.writable => {
                streaming.forget();
                Step::Wait(Waiting::Peer)
            }
            State::Stream(_) if !ctx.may_move_chunks() => Step::Wait(Waiting::Turn),
            State::Stream(streaming) => {
                let step = streaming.step(ctx);
                self.after_chunk(step)
            }
            State::Errand(errand) => {
                let step = errand.step(ctx);
                self.command_when_done(step)
            }
            State::Watch(stream) => {
                input.take(usize::MAX);
                Step::Wait(if stream.say(ctx) { Waiting::Turn } else { Waiting::Input })
            }
            State::Closing => Step::Wait(Waiting::Close),
        }
    }

    #[inline]
    fn step_command(&mut self, input: &mut Input<'_>, ctx: &mut Context) -> Step {
        if input.is_empty() {
            return Step::Wait(Waiting::Input);
        }
        let next = command::take(input, &mut self.supply, ctx);
        self.go_on(next, input, ctx)
    }

    fn step_request(&mut self, input: &mut Input<'_>, ctx: &mut Context) -> Step {
        if input.is_empty() {
            return Step::Wait(Waiting::Input);
        }
        let next = binary::take(input, &mut self.supply, &mut self.lock, ctx);
        if self.lock == Lock::Closed {
            self.tell_denied(ctx);
        }
        self.go_on(next, input, ctx)
    }

    #[inline]
    fn go_on(&mut self, next: Next, input: &mut Input<'_>, ctx: &mut Context) -> Step {
        let next = match next {
            Next::Command => return Step::Done,
            Next::Verbosity(level) => {
                self.set_verbosity(level);
                return Step::Done;
            }
            Next::Wait(waiting) => return Step::Wait(waiting),
            Next::Keys(mut keys) => {
                let step = keys.step(input, &mut self.supply, ctx);
                if let KeysStep::End = step {
                    return Step::Done;
                }
                self.state = State::Keys(keys);
                return self.after_keys(step);
            }
            Next::Gather(gathering) => State::Gather(gathering),
            Next::Upload(uploading) => State::Upload(uploading),
            Next::Stream(streaming) => State::Stream(streaming),
            Next::Errand(errand) => State::Errand(errand),
            Next::Watch(stream) => State::Watch(stream),
            Next::Swallow(left) => State::Swallow(left),
            Next::Close { asked } => {
                self.quits = asked;
                State::Closing
            }
        };
        self.state = next;
        self.step(input, ctx)
    }

    fn after_keys(&mut self, step: KeysStep) -> Step {
        self.state = match step {
            KeysStep::Wait(waiting) => return Step::Wait(waiting),
            KeysStep::End => State::Command,
            KeysStep::Skip => State::SkipLine,
            KeysStep::Stream(streaming) => State::Stream(streaming),
        };
        Step::Done
    }

    fn after_chunk(&mut self, step: StreamStep) -> Step {
        self.state = match step {
            StreamStep::Wait(waiting) => return Step::Wait(waiting),
            StreamStep::End(After::Keys(keys)) => State::Keys(keys),
            StreamStep::Failed(After::Keys(_)) => State::SkipLine,
            StreamStep::End(_) | StreamStep::Failed(_) => self.home(),
            StreamStep::Broken => State::Closing,
        };
        Step::Done
    }

    fn step_first(&mut self, input: &mut Input<'_>, ctx: &mut Context) -> Step {
        let Some(first) = input.rest().first() else {
            return Step::Wait(Waiting::Input);
        };
        self.binary = match ctx.settings.dialect {
            Dialect::Auto => *first == REQUEST,
            Dialect::Text => false,
            Dialect::Binary => true,
        };
        self.state = self.home();
        self.step(input, ctx)
    }

    fn step_login(&mut self, input: &mut Input<'_>, ctx: &mut Context) -> Step {
        let (step, state) = match auth::login(input, ctx) {
            Err(()) => (Step::Done, State::Closing),
            Ok((step, lock, swallow)) => {
                self.lock = lock;
                (step, if swallow > 0 { State::Swallow(swallow) } else { self.home() })
            }
        };
        self.state = state;
        self.tell_denied(ctx);
        step
    }

    /// Where a connection stands between two commands.
    fn home(&self) -> State {
        match (self.binary, self.lock) {
            (true, _) => State::Request,
            (false, Lock::Open) => State::Command,
            (false, _) => State::Login,
        }
    }

    fn step_skip_line(&mut self, input: &mut Input<'_>) -> Step {
        let line = input.rest().iter().position(|byte| *byte == b'\n');
        input.take(line.map_or(usize::MAX, |at| at + 1));
        self.command_if(line.is_some())
    }

    fn command_when_done(&mut self, step: Step) -> Step {
        if let Step::Done = step {
            self.state = self.home();
        }
        step
    }

    /// To the next command if the state is `over`; otherwise it needs more input.
    fn command_if(&mut self, over: bool) -> Step {
        if !over {
            return Step::Wait(Waiting::Input);
        }
        self.state = self.home();
        Step::Done
    }
}
