//! Hard links: all names of an inode are gathered in the walk, and made one inode again at the end.

use crate::folder::Open;
use crate::manifest::State;
use crate::pass::Pass;
use crate::progress::Counts;
use crate::put::{Entry, There};
use crate::source::{is_gone, join};
use crate::stamp::{Seen, Stamp};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// One name of an inode that has several.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: Arc<[u8]>,
    pub(crate) name: CString,
    /// The inode as it was when this name was looked at.
    pub(crate) stamp: Stamp,
    /// `None`: recorded, and as it was.
    pub(crate) change: Option<Box<Change>>,
}

/// A name that is to be made.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) open: Shell,
    pub(crate) seen: Seen,
    pub(crate) there: There,
    pub(crate) temporary: u32,
}

/// How copying the first name ended.
enum Led {
    /// It is there.
    As(State, Stamp),
    /// It is gone from the source.
    Vanished,
    /// It failed, and that was told.
    Failed,
}

/// Whether all looks at the names of an inode, told with whether that name is to be made, saw what the names that are as they were have at
/// the target. If so, these may lead the others.
fn looks_agree(looks: impl Iterator<Item = (Stamp, bool)> + Clone) -> bool {
    let Some((changed, _)) = looks.clone().find(|(_, is_changed)| *is_changed) else { return true };
    looks.clone().all(|(stamp, _)| stamp == changed) || looks.clone().all(|(_, is_changed)| is_changed)
}

/// What is needed to open a folder again.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) number: u32,
    pub(crate) meta: crate::folder::Meta,
    pub(crate) exclusive: bool,
}

impl Pass<'_> {
    /// A name that is as it was.
    pub(crate) fn remember_same_link(&self, path: &Arc<[u8]>, name: &CStr, seen: &Seen) {
        let member =
            Member { path: Arc::clone(path), name: name.to_owned(), stamp: seen.stamp, change: None };
        self.links().entry((seen.device, seen.stamp.ino)).or_default().push(member);
    }

    /// A name that is to be made.
    pub(crate) fn remember_link(&self, open: &Arc<Open>, entry: Entry) {
        open.late.store(true, SeqCst);
        let key = (entry.seen.device, entry.seen.stamp.ino);
        let change = Change {
            open: Shell { number: open.number, meta: open.meta, exclusive: open.exclusive },
            seen: entry.seen,
            there: entry.there,
            temporary: entry.temporary,
        };
        let (path, stamp) = (Arc::clone(&open.path), entry.seen.stamp);
        let member = Member { path, name: entry.name, stamp, change: Some(Box::new(change)) };
        self.links().entry(key).or_default().push(member);
    }

    /// Makes the names of one inode: the first by copying, unless one is as it was, the others by linking to it.
    pub(crate) fn join_links(&self, mut members: Vec<Member>, buffer: &mut [u8]) {
        if !looks_agree(members.iter().map(|member| (member.stamp, member.change.is_some()))) {
            // The inode changed between two looks: what one name has at the target is not what the others are to have. The next
            // pass finds that name changed, too.
            members.retain(|member| member.change.is_some());
            self.note_unsettled();
        }
        let leader = members.iter().position(|member| member.change.is_none()).unwrap_or(0);
        if leader >= members.len() || self.stopped() {
            return;
        }
        members.swap(0, leader);
        let mut members = members.into_iter();
        let (path, name, made, is_copied) = loop {
            let Some(leader) = members.next() else { return };
            let Some(change) = leader.change else {
                break (leader.path, leader.name, (State::Done, leader.stamp), false);
            };
            match self.copy_leader(&leader.path, &leader.name, *change, buffer) {
                Led::As(state, stamp) => break (leader.path, leader.name, (state, stamp), true),
                // Another name of it may still be there.
                Led::Vanished => {}
                Led::Failed => return,
            }
        };
        for member in members {
            if let Some(change) = member.change {
                self.make_link((&path, &name), (&member.path, &member.name), *change, made, is_copied);
            }
        }
    }

    /// Copies the first name.
    fn copy_leader(&self, path: &Arc<[u8]>, name: &CStr, change: Change, buffer: &mut [u8]) -> Led {
        let source = match self.open_again(path, false) {
            Ok(source) => source,
            Err(errno) if is_gone(errno) => {
                self.note_unsettled();
                return Led::Vanished;
            }
            Err(errno) => {
                self.fail("open again the folder of", &join(path, name.to_bytes()), errno);
                return Led::Failed;
            }
        };
        let target = match self.target().and_then(|target| target.open_below(path)) {
            Ok(target) => target,
            Err(errno) => {
                self.fail("open again at the target the folder of", &join(path, name.to_bytes()), errno);
                return Led::Failed;
            }
        };
        let open = Arc::new(Open {
            number: change.open.number,
            path: Arc::clone(path),
            source,
            target,
            meta: change.open.meta,
            exclude: None,
            exclusive: change.open.exclusive,
            left: 1.into(),
            late: true.into(),
            failed: false.into(),
        });
        let entry =
            Entry { temporary: change.temporary, ..Entry::new(name.to_owned(), change.seen, change.there) };
        match self.put(&open, &entry, buffer) {
            Ok(Some((state, child, stamp))) => {
                self.record(open.number, &[(entry.name, state, child, stamp)]);
                Led::As(state, stamp)
            }
            Ok(None) => {
                self.note_unsettled();
                Led::Vanished
            }
            Err(broke) => {
                self.fail(broke.tried, &join(path, name.to_bytes()), broke.errno);
                Led::Failed
            }
        }
    }

    fn make_link(
        &self,
        leader: (&[u8], &CStr),
        member: (&[u8], &CStr),
        change: Change,
        (state, stamp): (State, Stamp),
        is_copied: bool,
    ) {
        let temporary = self.temporary(change.temporary);
        let linked = (|| {
            let target = self.target()?;
            let from = target.open_below(leader.0)?;
            let to = target.open_below(member.0)?;
            let mut is_unsure = matches!(change.there, There::Unknown(_));
            if change.there == There::Nothing {
                match target.link(&from, leader.1, &to, member.1) {
                    Err(Errno::EXIST) if !change.open.exclusive => is_unsure = true,
                    linked => return linked,
                }
            }
            if let There::Ours(crate::stamp::Kind::Directory, child) | There::Unknown(child) = change.there {
                crate::target::Trips::look(&target.trips);
                let seen = target.watched(|| crate::stamp::look(&to, member.1));
                if seen.is_ok_and(|seen| seen.kind() == crate::stamp::Kind::Directory) {
                    self.remove_our_tree(&join(member.0, member.1.to_bytes()), child, None)?;
                }
            }
            match target.link(&from, leader.1, &to, &temporary) {
                Err(Errno::EXIST) => {
                    // One that a crash left.
                    target.remove(&to, &temporary)?;
                    target.link(&from, leader.1, &to, &temporary)?;
                }
                linked => linked?,
            }
            let renamed = target.rename(&to, &temporary, member.1);
            // Renaming one name of an inode over another does nothing: then the temporary one is still there. Not so where the first
            // name was just copied, to an inode of its own.
            if is_unsure || !is_copied || renamed.is_err() {
                target.remove(&to, &temporary)?;
            }
            renamed
        })();
        match linked {
            Ok(()) => {
                self.record(change.open.number, &[(member.1.to_owned(), state, 0, stamp)]);
                Counts::add(&self.counts.written, 1);
            }
            Err(errno) => {
                self.fail("link", &join(member.0, member.1.to_bytes()), errno);
                let folder = &change.open;
                self.unclaim_taken(folder.exclusive, folder.number, member.1, change.there, errno);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_as_it_was_leads_only_names_that_were_seen_like_it() {
        let at = |seconds| Stamp { changed: crate::stamp::Moment { seconds, nanos: 1 }, ..Stamp::default() };
        let agree = |looks: &[(i64, bool)]| {
            looks_agree(looks.iter().map(|(seconds, is_changed)| (at(*seconds), *is_changed)))
        };
        assert!(agree(&[(1, false), (1, false)]), "nothing is to be made");
        assert!(agree(&[(1, false), (1, true), (1, true)]), "the others were never made");
        assert!(agree(&[(1, true), (2, true)]), "what is copied now is the newest for all");
        assert!(!agree(&[(1, false), (2, true)]));
        assert!(!agree(&[(1, false), (1, true), (2, true)]), "changed after the first of two looks");
        assert!(!agree(&[(2, true), (1, true), (1, false)]));
    }
}
