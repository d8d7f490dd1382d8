//! The disk lane: a few threads that do what may sleep in the kernel or take long, so that no event loop has to:
//! cold reads, chunks of large values, log writes while the disk is slow. A job tells its submitter of its end by
//! itself.
//!
//! What reads through the whole store does so in many jobs, called scans here; what takes as long as the disk does for two
//! megabytes ([`super::run`]) counts as one of them. One scan runs at a time, the first first, and by turns with the other
//! jobs, so that any number of them delays those by no more than one.
//!
//! (The idea is as old as Flash, "an efficient and portable web server", Pai et al. 1999; nginx calls it
//! `thread_pool`, Redis `bio`.)

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// What the lane runs. It must not panic.
pub type Job = Box<dyn FnOnce() + Send>;

/// Handle to the threads; the last one to go ends them, after the jobs that were submitted.
#[derive(Clone)]
pub(crate) struct Lane(Arc<Queue>);

struct Queue {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    scans: VecDeque<Job>,
    /// A scan is being run.
    scanning: bool,
    /// The job that was taken last is a scan.
    scanned: bool,
    closed: bool,
}

impl Lane {
    /// Starts `threads` threads, called `name` and a number. The error is the system's (out of threads).
    pub fn start(name: &str, threads: usize) -> std::io::Result<(Lane, Vec<JoinHandle<()>>)> {
        let lane = Lane(Arc::new(Queue { state: Mutex::default(), more: Condvar::new() }));
        let spawn = |number| {
            let queue = lane.0.clone();
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .stack_size(256 << 10)
                .spawn(move || queue.work())
        };
        let threads = (0..threads.max(1)).map(spawn).collect::<std::io::Result<Vec<_>>>();
        threads.inspect_err(|_| lane.close()).map(|threads| (lane.clone(), threads))
    }

    /// Queues a job. After [`Lane::close`] it is run at once, here.
    pub fn submit(&self, job: Job) {
        self.push(job, |state, job| state.jobs.push_back(job));
    }

    /// Queues a scan.
    pub fn submit_scan(&self, job: Job) {
        self.push(job, |state, job| state.scans.push_back(job));
    }

    /// Queues a job before all others: the log, on which every writer waits.
    pub fn submit_first(&self, job: Job) {
        self.push(job, |state, job| state.jobs.push_front(job));
    }

    /// Lets the threads end when the queue is empty.
    pub fn close(&self) {
        super::lock(&self.0.state).closed = true;
        self.0.more.notify_all();
    }

    /// Whether jobs are run where they are submitted.
    pub fn is_closed(&self) -> bool {
        super::lock(&self.0.state).closed
    }

    fn push(&self, job: Job, put: fn(&mut State, Job)) {
        let mut state = super::lock(&self.0.state);
        if state.closed {
            drop(state);
            return job();
        }
        put(&mut state, job);
        drop(state);
        self.0.more.notify_one();
    }
}

impl Queue {
    fn work(&self) {
        while let Some((job, is_scan)) = self.next() {
            job();
            if is_scan {
                super::lock(&self.state).scanning = false;
                self.more.notify_one();
            }
        }
    }

    /// Also tells whether it is a scan.
    fn next(&self) -> Option<(Job, bool)> {
        let mut state = super::lock(&self.state);
        loop {
            if let Some(found) = state.take() {
                return Some(found);
            }
            if state.closed {
                return None;
            }
            state = super::wait(&self.more, state);
        }
    }
}

impl State {
    fn take(&mut self) -> Option<(Job, bool)> {
        let is_scan = !self.scans.is_empty() && !self.scanning && (!self.scanned || self.jobs.is_empty());
        let job = if is_scan { self.scans.pop_front() } else { self.jobs.pop_front() }?;
        self.scanned = is_scan;
        self.scanning |= is_scan;
        Some((job, is_scan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_and_those_submitted_before_the_end_are_not_lost() {
        let (lane, threads) = Lane::start("lane", 2).unwrap();
        let (tell, told) = mpsc::channel();
        for number in 0..100 {
            let tell = tell.clone();
            lane.submit(Box::new(move || tell.send(number).unwrap()));
        }
        lane.close();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        lane.submit(Box::new(move || tell.send(100).unwrap()));
        let mut all: Vec<i32> = told.iter().collect();
        all.sort_unstable();
        assert_eq!(all, (0..=100).collect::<Vec<_>>());
    }

    /// One that blocks its thread until something is sent.
    fn block(lane: &Lane, submit: fn(&Lane, Job)) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (tell, started) = mpsc::channel();
        let job = move || {
            tell.send(()).unwrap();
            released.recv().unwrap();
        };
        submit(lane, Box::new(job));
        started.recv().unwrap();
        release
    }

    #[test]
    fn scans_and_other_jobs_run_by_turns() {
        let (lane, _threads) = Lane::start("lane", 1).unwrap();
        let release = block(&lane, Lane::submit);
        let (tell, told) = mpsc::channel();
        for (submit, name) in [(Lane::submit_scan as fn(&Lane, Job), "scan"), (Lane::submit, "job")] {
            for _ in 0..3 {
                let tell = tell.clone();
                submit(&lane, Box::new(move || tell.send(name).unwrap()));
            }
        }
        release.send(()).unwrap();
        let order: Vec<_> = told.iter().take(6).collect();
        assert_eq!(order, ["scan", "job", "scan", "job", "scan", "job"]);
    }

    #[test]
    fn one_scan_runs_at_a_time() {
        let (lane, _threads) = Lane::start("lane", 2).unwrap();
        let release = block(&lane, Lane::submit_scan);
        let (tell, told) = mpsc::channel();
        for (submit, name) in [(Lane::submit_scan as fn(&Lane, Job), "scan"), (Lane::submit, "job")] {
            let tell = tell.clone();
            submit(&lane, Box::new(move || tell.send(name).unwrap()));
        }
        assert_eq!(told.recv(), Ok("job"));
        release.send(()).unwrap();
        assert_eq!(told.recv(), Ok("scan"));
    }
}
