//! The file system as a trace changed it, by the rules of POSIX alone: a change is safe once a sync that began after it has
//! ended, `fsync` or `fdatasync` of the file for its contents, `fsync` of the directory for its entries. Until then a crash
//! may lose it or not, whatever else it loses.

use super::trace::{Call, NEVER};
use std::collections::{BTreeMap, HashMap};

/// A change that can be lost.
pub struct Change<T> {
    pub what: T,
    pub begun: usize,
    pub ended: usize,
    /// When it was safe.
    pub safe: usize,
}

/// What happens to a file's contents.
pub enum Edit {
    Write(u64, Vec<u8>),
    /// The file is made at least this long.
    Extend(u64),
    SetLen(u64),
    Punch(u64, u64),
}

/// What happens to a directory: these names mean these files, or nothing, from then on.
pub type Names = Vec<(String, Option<usize>)>;

/// A file's life; its names are elsewhere.
pub struct Inode {
    pub edits: Vec<Change<Edit>>,
}

/// All of it.
#[derive(Default)]
pub struct Files {
    pub inodes: Vec<Inode>,
    pub names: Vec<Change<Names>>,
    /// What the names mean at present.
    present: HashMap<String, usize>,
    open: HashMap<i64, Open>,
}

/// An open file.
#[derive(Clone)]
struct Open {
    path: String,
    inode: usize,
    position: u64,
}

/// Which syncs a control takes away: those of the paths for which this says so.
pub type Ignores = fn(&str) -> bool;

impl Files {
    /// The process ended by `time` and left these files. Of calls that a kill cut short this tells what they did: the next
    /// process goes on from there.
    pub fn end_process(&mut self, time: usize, left: &BTreeMap<String, Vec<u8>>) {
        self.open.clear();
        let is_there = |(path, inode): &(String, Option<usize>)| left.contains_key(path) == inode.is_some();
        self.names.retain(|change| change.ended != NEVER || change.what.iter().all(is_there));
        self.names.iter_mut().for_each(|change| change.ended = change.ended.min(time));
        let names = self.names.iter().flat_map(|change| change.what.clone());
        let names: HashMap<String, Option<usize>> = names.collect();
        self.present = names.into_iter().filter_map(|(path, inode)| Some((path, inode?))).collect();
        for (path, inode) in &self.present {
            let edits = &mut self.inodes[*inode].edits;
            let bytes = left.get(path).unwrap_or_else(|| panic!("{path} is gone, and no call removed it"));
            edits.retain_mut(|change| change.ended != NEVER || change.what.shrink_to(bytes));
            edits.iter_mut().for_each(|change| change.ended = change.ended.min(time));
        }
    }

    /// Takes the calls in the order of their effects. Only files below `root` count.
    pub fn apply(&mut self, call: &Call, root: &str, ignores: Ignores) {
        if call.result < 0 {
            return;
        }
        match call.name.as_str() {
            "openat" => self.open(call, call.text(1), 2, root),
            "close" => drop(self.open.remove(&call.number(0))),
            "fcntl" if call.has_flag(1, "F_DUPFD_CLOEXEC") => self.duplicate(call),
            "rename" => self.rename(call, call.text(0), call.text(1), root),
            "renameat" | "renameat2" => self.rename(call, call.text(1), call.text(3), root),
            "link" => self.link(call, call.text(0), call.text(1), root),
            "linkat" => self.link(call, call.text(1), call.text(3), root),
            "unlink" => self.unlink(call, call.text(0), root),
            "unlinkat" => self.unlink(call, call.text(1), root),
            "fsync" | "fdatasync" => self.sync(call, ignores),
            _ => self.write(call),
        }
    }

    fn open(&mut self, call: &Call, path: String, flags: usize, root: &str) {
        if !path.starts_with(root) {
            return;
        }
        let inode = match self.present.get(&path) {
            Some(&inode) => inode,
            None if call.has_flag(flags, "O_CREAT") => self.create(call, &path),
            // A directory.
            None => usize::MAX,
        };
        if call.has_flag(flags, "O_TRUNC") {
            self.edit(call, inode, Edit::SetLen(0));
        }
        self.open.insert(call.result, Open { path, inode, position: 0 });
    }

    fn create(&mut self, call: &Call, path: &str) -> usize {
        self.inodes.push(Inode { edits: Vec::new() });
        let inode = self.inodes.len() - 1;
        self.name(call, vec![(path.to_string(), Some(inode))]);
        inode
    }

    fn duplicate(&mut self, call: &Call) {
        if let Some(open) = self.open.get(&call.number(0)).cloned() {
            self.open.insert(call.result, open);
        }
    }

    fn rename(&mut self, call: &Call, from: String, to: String, root: &str) {
        if from.starts_with(root) {
            let inode = self.present[&from];
            self.name(call, vec![(from, None), (to, Some(inode))]);
        }
    }

    fn link(&mut self, call: &Call, from: String, to: String, root: &str) {
        if from.starts_with(root) {
            let inode = self.present[&from];
            self.name(call, vec![(to, Some(inode))]);
        }
    }

    fn unlink(&mut self, call: &Call, path: String, root: &str) {
        if path.starts_with(root) {
            self.name(call, vec![(path, None)]);
        }
    }

    fn name(&mut self, call: &Call, what: Names) {
        for (path, inode) in &what {
            match inode {
                Some(inode) => drop(self.present.insert(path.clone(), *inode)),
                None => drop(self.present.remove(path)),
            }
        }
        self.names.push(Change { what, begun: call.begun, ended: call.ended, safe: NEVER });
    }

    fn write(&mut self, call: &Call) {
        let Some(open) = self.open.get(&call.number(0)).cloned() else { return };
        let count = usize::try_from(call.result).expect("not negative");
        let edit = match call.name.as_str() {
            "pwrite64" => Edit::Write(call.number(3) as u64, self.written(call, count)),
            "write" => {
                self.advance(call.number(0), count);
                Edit::Write(open.position, self.written(call, count))
            }
            "read" => return self.advance(call.number(0), count),
            "copy_file_range" => return self.copy(call, count),
            "ftruncate" => Edit::SetLen(call.number(1) as u64),
            "fallocate" if call.has_flag(1, "FALLOC_FL_PUNCH_HOLE") => {
                Edit::Punch(call.number(2) as u64, call.number(3) as u64)
            }
            "fallocate" => Edit::Extend((call.number(2) + call.number(3)) as u64),
            // A build with assertions asks whether a descriptor is open before it closes it.
            "fcntl" => return,
            other => panic!("no rule for {other} on {}", open.path),
        };
        self.edit(call, open.inode, edit);
    }

    /// Of a call that did not return, everything may have been written.
    fn written(&self, call: &Call, count: usize) -> Vec<u8> {
        let mut bytes = call.bytes(1);
        bytes.truncate(if call.ended == NEVER { bytes.len() } else { count });
        bytes
    }

    fn advance(&mut self, descriptor: i64, count: usize) {
        self.open.get_mut(&descriptor).expect("it is open").position += count as u64;
    }

    fn copy(&mut self, call: &Call, count: usize) {
        let Some(from) = self.open.get(&call.number(0)).cloned() else { panic!("a copy from outside") };
        let to = self.open.get(&call.number(2)).expect("a copy to inside").clone();
        let (source, target) = (call.pointed(1).unwrap_or(from.position), call.pointed(3).unwrap_or(to.position));
        let mut bytes = self.present_bytes(from.inode);
        bytes.resize(bytes.len().max(source as usize + count), 0);
        let copied = bytes[source as usize..source as usize + count].to_vec();
        if call.pointed(1).is_none() {
            self.advance(call.number(0), count);
        }
        if call.pointed(3).is_none() {
            self.advance(call.number(2), count);
        }
        self.edit(call, to.inode, Edit::Write(target, copied));
    }

    fn edit(&mut self, call: &Call, inode: usize, what: Edit) {
        let change = Change { what, begun: call.begun, ended: call.ended, safe: NEVER };
        self.inodes[inode].edits.push(change);
    }

    fn sync(&mut self, call: &Call, ignores: Ignores) {
        let Some(open) = self.open.get(&call.number(0)).filter(|open| !ignores(&open.path)) else { return };
        let inside = |names: &Names| names.iter().any(|(path, _)| parent(path) == open.path);
        match open.inode {
            usize::MAX => settle(self.names.iter_mut().filter(|change| inside(&change.what)), call),
            inode => settle(self.inodes[inode].edits.iter_mut(), call),
        }
    }

    fn present_bytes(&self, inode: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.inodes[inode].edits.iter().for_each(|change| change.what.apply(&mut bytes));
        bytes
    }
}

fn settle<'a, T: 'a>(changes: impl Iterator<Item = &'a mut Change<T>>, call: &Call) {
    for change in changes.filter(|change| change.ended < call.begun) {
        change.safe = change.safe.min(call.ended);
    }
}

pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').expect("an absolute path").0
}

impl Edit {
    pub fn describe(&self) -> String {
        match self {
            Edit::Write(offset, data) => format!("write of {} bytes at {offset}", data.len()),
            Edit::Extend(len) => format!("extension to {len} bytes"),
            Edit::SetLen(len) => format!("cut to {len} bytes"),
            Edit::Punch(offset, len) => format!("hole of {len} bytes at {offset}"),
        }
    }

    /// Becomes what was done of it, if these are the file's bytes now. `false`: nothing.
    fn shrink_to(&mut self, bytes: &[u8]) -> bool {
        match self {
            Edit::Write(offset, data) => {
                let found = bytes.get(*offset as usize..).unwrap_or_default();
                data.truncate(data.iter().zip(found).take_while(|(wanted, found)| wanted == found).count());
                !data.is_empty()
            }
            Edit::Extend(len) => bytes.len() as u64 >= *len,
            Edit::SetLen(len) => bytes.len() as u64 == *len,
            Edit::Punch(offset, len) => bytes.iter().skip(*offset as usize).take(*len as usize).all(|byte| *byte == 0),
        }
    }

    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Edit::Write(offset, data) => {
                let end = *offset as usize + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset as usize..end].copy_from_slice(data);
            }
            Edit::Extend(len) => bytes.resize(bytes.len().max(*len as usize), 0),
            Edit::SetLen(len) => bytes.resize(*len as usize, 0),
            Edit::Punch(offset, len) => {
                let end = bytes.len().min((offset + len) as usize);
                let start = end.min(*offset as usize);
                bytes[start..end].fill(0);
            }
        }
    }
}
