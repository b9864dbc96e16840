//! One entry is made, or put in the place of an older one.

use crate::attributes::{Onto, Xattrs, set_all};
use crate::data::{Failed, Reading, copy_content};
use crate::fill::Fill;
use crate::folder::{Open, temporary_name};
use crate::manifest::{Entry as Recorded, Record, State};
use crate::options::{CHANGING_RETRIES, Durability};
use crate::pass::{Job, Pass};
use crate::progress::Counts;
use crate::source::{is_gone, join, open_file, read_link};
use crate::stamp::{Kind, Moment, Seen, Stamp, file_clock, look, look_open};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// What stands at the target under the name of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum There {
    /// Nothing of ours.
    Nothing,
    /// Something of ours; for a folder with its number, 0 if it has none yet.
    Ours(Kind, u32),
    /// We were about to change it: look first.
    Unknown(u32),
}

/// An entry to be made or replaced.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) seen: Seen,
    pub(crate) there: There,
    /// The number of the temporary name it may use.
    pub(crate) temporary: u32,
    /// The number under which a folder was claimed; 0 for none.
    pub(crate) number: u32,
}

impl Entry {
    pub(crate) fn new(name: CString, seen: Seen, there: There) -> Self {
        Entry { name, seen, there, temporary: u32::MAX, number: 0 }
    }

    /// A folder that has no number yet is claimed under a new one: what is put in it must be known as ours.
    pub(crate) fn needs_number(&self) -> bool {
        self.seen.kind() == Kind::Directory && matches!(self.there, There::Nothing | There::Unknown(0))
    }

    /// As it is claimed.
    pub(crate) fn claimed(&self) -> Recorded<'_> {
        Recorded {
            name: self.name.to_bytes(),
            state: State::Claimed,
            child: self.number,
            stamp: self.seen.stamp,
        }
    }
}

/// How a try to make an entry ended.
enum Made {
    /// It is there, as the stamp says; suspect if it may have changed meanwhile.
    As(Stamp, bool),
    /// The source's entry is no longer there or has become something else; the next pass sees.
    Vanished,
}

/// A system call that failed, and what it was to do.
pub(crate) struct Broke {
    pub(crate) tried: &'static str,
    pub(crate) errno: Errno,
}

fn broke(tried: &'static str, errno: Errno) -> Broke {
    Broke { tried, errno }
}

impl Pass<'_> {
    /// Makes a run of entries of one folder, and writes down those that are there.
    pub(crate) fn put_all(&self, open: &Arc<Open>, entries: Vec<Entry>, buffer: &mut [u8]) {
        let mut done: Vec<(CString, State, u32, Stamp)> = Vec::with_capacity(entries.len());
        for entry in entries {
            if self.stopped() {
                break;
            }
            if entry.seen.kind() != Kind::Directory && entry.seen.stamp.links > 1 {
                self.remember_link(open, entry);
                continue;
            }
            match self.put(open, &entry, buffer) {
                Ok(Some((state, child, stamp))) => done.push((entry.name, state, child, stamp)),
                Ok(None) => self.note_unsettled(),
                Err(broke) => {
                    self.fail(broke.tried, &join(&open.path, entry.name.to_bytes()), broke.errno);
                    // What may stand there was claimed before, under its number, and stays so.
                    open.failed.store(true, SeqCst);
                    self.unclaim_taken(open.exclusive, open.number, &entry.name, entry.there, broke.errno);
                }
            }
        }
        self.record(open.number, &done);
    }

    /// A name that others had taken was not ours to claim: the next pass must not take it for ours.
    pub(crate) fn unclaim_taken(
        &self,
        exclusive: bool,
        folder: u32,
        name: &CStr,
        there: There,
        errno: Errno,
    ) {
        if exclusive && there == There::Nothing && errno == Errno::EXIST {
            self.journal.add(&[Record::Gone { folder, names: vec![name.to_bytes()] }]);
        }
    }

    /// Writes down entries of a folder.
    pub(crate) fn record(&self, folder: u32, done: &[(CString, State, u32, Stamp)]) {
        if done.is_empty() {
            return;
        }
        let entries = done
            .iter()
            .map(|(name, state, child, stamp)| Recorded {
                name: name.to_bytes(),
                state: *state,
                child: *child,
                stamp: *stamp,
            })
            .collect();
        self.journal.add(&[Record::Entries { folder, entries }]);
    }

    /// Makes one entry that is no hard link. `None`: it is no longer there.
    pub(crate) fn put(
        &self,
        open: &Arc<Open>,
        entry: &Entry,
        buffer: &mut [u8],
    ) -> Result<Option<(State, u32, Stamp)>, Broke> {
        let there = self.look_there(open, entry)?;
        let is_folder = entry.seen.kind() == Kind::Directory;
        let there = match there {
            There::Ours(Kind::Directory, child) if is_folder => {
                let number = if child == 0 { self.number_of(open.number, entry)? } else { child };
                self.descend(open, entry, number, true);
                return Ok(Some((State::Done, number, entry.seen.stamp)));
            }
            There::Ours(Kind::Directory, child) => {
                // What others put in it stays, and what comes in its place cannot be made.
                self.remove_our_tree(&join(&open.path, entry.name.to_bytes()), child, None)
                    .map_err(|errno| broke("remove the folder in the place of", errno))?;
                There::Nothing
            }
            There::Ours(_, _) if is_folder => {
                let target = self.target().map_err(|errno| broke("open the target for", errno))?;
                target
                    .remove(&open.target, &entry.name)
                    .map_err(|errno| broke("remove what is in the place of the folder", errno))?;
                There::Nothing
            }
            there => there,
        };
        if is_folder {
            return self.put_folder(open, entry).map(Some);
        }
        let made = match there {
            There::Nothing => self.make(open, entry, &entry.name, open.exclusive, buffer)?,
            _ => self.make_beside(open, entry, buffer)?,
        };
        Ok(match made {
            Made::As(stamp, suspect) => {
                Counts::add(&self.counts.written, 1);
                Some((if suspect { State::Suspect } else { State::Done }, 0, stamp))
            }
            Made::Vanished => None,
        })
    }

    /// Looks where it is not known what stands there.
    fn look_there(&self, open: &Open, entry: &Entry) -> Result<There, Broke> {
        let There::Unknown(child) = entry.there else { return Ok(entry.there) };
        let target = self.target().map_err(|errno| broke("open the target for", errno))?;
        crate::target::Trips::look(&target.trips);
        match target.watched(|| look(&open.target, &entry.name)) {
            Ok(seen) => Ok(There::Ours(seen.kind(), child)),
            Err(Errno::NOENT) => Ok(There::Nothing),
            Err(errno) => Err(broke("look at the target's", errno)),
        }
    }

    fn put_folder(&self, open: &Arc<Open>, entry: &Entry) -> Result<(State, u32, Stamp), Broke> {
        let stamp = &entry.seen.stamp;
        let target = self.target().map_err(|errno| broke("open the target for", errno))?;
        let number = self.number_of(open.number, entry)?;
        let made_as_owner = target
            .make_dir(&open.target, &entry.name, (stamp.mode & 0o777) | 0o700, open.maker(stamp))
            .map_err(|errno| broke("make the folder", errno))?;
        let is_right = open
            .is_owner_right(target, stamp, made_as_owner, || look(&open.target, &entry.name))
            .map_err(|errno| broke("look at the target's", errno))?;
        if target.as_owner && !is_right {
            // Now, so that its owner may make entries in it.
            target
                .chown(&open.target, &entry.name, stamp.uid, stamp.gid)
                .map_err(|errno| broke("give its owner the folder", errno))?;
        }
        Counts::add(&self.counts.written, 1);
        self.descend(open, entry, number, false);
        Ok((State::Done, number, *stamp))
    }

    /// The number that was claimed for a folder. One that is made anew under an old name gets a new one, which lasts before it is there:
    /// what was recorded under the old one is not in it.
    fn number_of(&self, parent: u32, entry: &Entry) -> Result<u32, Broke> {
        if entry.number != 0 {
            return Ok(entry.number);
        }
        let number = self.new_number();
        let claimed = Recorded { child: number, ..entry.claimed() };
        let claim = Record::Entries { folder: parent, entries: vec![claimed] };
        if let Err(error) = self.journal.write_now(&[claim]) {
            self.stop_for(error);
            return Err(broke("write down the making of", Errno::CANCELED));
        }
        Ok(number)
    }

    fn descend(&self, open: &Arc<Open>, entry: &Entry, number: u32, unfinished: bool) {
        let exclude = open.exclude.as_ref().and_then(|exclude| match exclude.at(entry.name.to_bytes()) {
            crate::exclude::At::Below(below) => Some(below),
            _ => None,
        });
        self.pool.push(Job::Fill(Fill {
            parent: Arc::clone(open),
            name: entry.name.clone(),
            seen: entry.seen,
            number,
            exclude,
            unfinished,
        }));
    }

    /// Makes the new entry beside the old one and puts it in its place at once.
    fn make_beside(&self, open: &Arc<Open>, entry: &Entry, buffer: &mut [u8]) -> Result<Made, Broke> {
        let temporary = self.temporary(entry.temporary);
        let target = self.target().map_err(|errno| broke("open the target for", errno))?;
        let mut made = self.make(open, entry, &temporary, true, buffer);
        if made.as_ref().is_err_and(|broke| broke.errno == Errno::EXIST) {
            // One that a crash left. Never written into: it may be a name of something that counts.
            target
                .remove(&open.target, &temporary)
                .map_err(|errno| broke("remove what a crash left of", errno))?;
            made = self.make(open, entry, &temporary, true, buffer);
        }
        let put = made.and_then(|made| {
            if let Made::As(stamp, _) = &made {
                if self.options.keep_aside.is_some() {
                    self.keep_refused(open, &entry.name, &temporary, stamp)
                        .map_err(|errno| broke("keep the attributes of", errno))?;
                }
                target
                    .rename(&open.target, &temporary, &entry.name)
                    .map_err(|errno| broke("put in its place", errno))?;
            }
            Ok(made)
        });
        if put.is_err() {
            // The first error is what counts; a temporary name that stays is removed by the next pass.
            let _ = target.remove(&open.target, &temporary);
        }
        put
    }

    /// The temporary name with this number.
    pub(crate) fn temporary(&self, number: u32) -> CString {
        let number = if number == u32::MAX { self.new_temporary() } else { number };
        temporary_name(&self.prefix, number)
    }

    fn make(
        &self,
        open: &Arc<Open>,
        entry: &Entry,
        as_name: &CStr,
        exclusive: bool,
        buffer: &mut [u8],
    ) -> Result<Made, Broke> {
        let Some(source) = &open.source else { return Ok(Made::Vanished) };
        if entry.seen.kind() == Kind::File {
            return self.make_file(open, source, entry, as_name, exclusive, buffer);
        }
        let read_from = file_clock();
        // Before anything is made: an error after that is the target's.
        let xattrs = match self.at_source(|| Xattrs::of_entry(source.as_fd(), &entry.name)) {
            Ok(xattrs) => xattrs,
            Err(errno) if is_gone(errno) => return Ok(Made::Vanished),
            Err(errno) => return Err(broke("read the attributes of", errno)),
        };
        let target = self.target().map_err(|errno| broke("open the target for", errno))?;
        let stamp = entry.seen.stamp;
        let made_as_owner = if entry.seen.kind() == Kind::Symlink {
            let leads_to = match self.at_source(|| read_link(source, &entry.name)) {
                Ok(leads_to) => leads_to,
                Err(errno) if is_gone(errno) || errno == Errno::INVAL => return Ok(Made::Vanished),
                Err(errno) => return Err(broke("read the link", errno)),
            };
            target
                .make_symlink(&open.target, as_name, &leads_to, open.maker(&stamp))
                .map_err(|errno| broke("make the link", errno))?
        } else {
            target
                .make_node(&open.target, as_name, stamp.mode, stamp.size)
                .map_err(|errno| broke("make the special file", errno))?;
            false
        };
        self.set_entry(open, entry, &xattrs, as_name, made_as_owner)
            .map_err(|errno| broke("set the attributes of", errno))?;
        Ok(self.made(stamp, read_from))
    }

    fn made(&self, stamp: Stamp, read_from: Moment) -> Made {
        let millis = if stamp.kind() == Kind::File { self.young_millis } else { self.granule_millis };
        Made::As(stamp, stamp.is_racy(read_from, millis))
    }

    fn set_entry(
        &self,
        open: &Open,
        entry: &Entry,
        xattrs: &Xattrs,
        as_name: &CStr,
        made_as_owner: bool,
    ) -> rustix::io::Result<()> {
        let target = self.target()?;
        let stamp = &entry.seen.stamp;
        if !open.is_owner_right(target, stamp, made_as_owner, || look(&open.target, as_name))? {
            target.chown(&open.target, as_name, stamp.uid, stamp.gid)?;
        }
        let onto = Onto::Entry(open.target.as_fd(), as_name);
        let path = join(&open.path, entry.name.to_bytes());
        let mode = set_all(target, onto, xattrs, stamp.permissions(), &self.refusals, &path)?;
        let is_plain = mode & 0o7000 == 0 && !open.meta.gives_acl && mode == stamp.permissions();
        if entry.seen.kind() == Kind::Special && !is_plain {
            target.chmod(&open.target, as_name, mode)?;
        }
        target.set_times(&open.target, as_name, &entry.seen.times())
    }

    fn make_file(
        &self,
        open: &Arc<Open>,
        source: &OwnedFd,
        entry: &Entry,
        as_name: &CStr,
        exclusive: bool,
        buffer: &mut [u8],
    ) -> Result<Made, Broke> {
        let target = self.target().map_err(|errno| broke("open the target for", errno))?;
        let mut to: Option<OwnedFd> = None;
        let mut tries = 0;
        loop {
            tries += 1;
            let read_from = file_clock();
            let (from, seen) =
                match self.at_source(|| open_file(source, &entry.name, self.options.cross_mounts)) {
                    Ok(opened) => opened,
                    Err(errno) if is_gone(errno) || errno == Errno::NXIO => {
                        return self.vanished(open, as_name, to);
                    }
                    Err(Errno::XDEV) => return Err(broke("enter what is mounted over", Errno::XDEV)),
                    Err(errno) => return Err(broke("read", errno)),
                };
            if seen.kind() != Kind::File {
                return self.vanished(open, as_name, to);
            }
            let stamp = seen.stamp;
            let file = if let Some(file) = to.take() {
                target.truncate(&file, 0).map_err(|errno| broke("write again", errno))?;
                // It was made as the source was then, and both may have changed with the content.
                target
                    .chown_open(&file, stamp.uid, stamp.gid)
                    .and_then(|()| target.chmod_open(&file, stamp.mode & 0o777))
                    .map_err(|errno| broke("give its owner and mode again", errno))?;
                file
            } else {
                let (file, made_as_owner) = target
                    .create_file(&open.target, as_name, stamp.mode, exclusive, open.maker(&stamp))
                    .map_err(|errno| broke("make the file", errno))?;
                let is_right = open
                    .is_owner_right(target, &stamp, made_as_owner, || look_open(&file))
                    .map_err(|errno| broke("look at the target's", errno))?;
                if !is_right {
                    // Before the data: changing the owner later would first wait for them.
                    target
                        .chown_open(&file, stamp.uid, stamp.gid)
                        .map_err(|errno| broke("give its owner", errno))?;
                }
                file
            };
            let reading = Reading { file: from.as_fd(), seen: &seen, watch: self.source_watch.as_ref() };
            let (stopped, limit) = (|| self.stopped(), self.limit.as_ref());
            let copied = copy_content(reading, target, file.as_fd(), buffer, limit, &stopped);
            let bytes = match copied {
                Ok(bytes) => bytes,
                Err(Failed::Read(errno)) if is_gone(errno) => {
                    return self.vanished(open, as_name, Some(file));
                }
                Err(Failed::Read(errno)) => return Err(broke("read", errno)),
                Err(Failed::Write(errno)) => return Err(broke("write", errno)),
                // Told as what stopped it; the half of it that is there stays claimed.
                Err(Failed::Stopped) => return Err(broke("write the whole of", Errno::CANCELED)),
            };
            let looked = self.at_source(|| {
                Xattrs::of_open(&from).and_then(|xattrs| look_open(&from).map(|after| (xattrs, after)))
            });
            let (xattrs, after) = match looked {
                Ok(looked) => looked,
                Err(errno) if is_gone(errno) => return self.vanished(open, as_name, Some(file)),
                Err(errno) => return Err(broke("look again at", errno)),
            };
            let changed = after.stamp != stamp;
            if changed && tries <= CHANGING_RETRIES && !self.stopped() {
                to = Some(file);
                continue;
            }
            self.finish_file(open, entry, file, &seen, &xattrs)
                .map_err(|errno| broke("write the last of", errno))?;
            Counts::add(&self.counts.files, 1);
            Counts::add(&self.counts.bytes, bytes);
            if changed {
                Counts::add(&self.counts.unsettled, 1);
                return Ok(Made::As(stamp, true));
            }
            return Ok(self.made(stamp, read_from));
        }
    }

    /// The source's file is gone, perhaps while it was copied: what was made of it goes, too.
    fn vanished(&self, open: &Open, as_name: &CStr, made: Option<OwnedFd>) -> Result<Made, Broke> {
        if made.is_some() {
            self.target()
                .and_then(|target| target.remove(&open.target, as_name))
                .map_err(|errno| broke("remove what was made of", errno))?;
        }
        Ok(Made::Vanished)
    }

    fn finish_file(
        &self,
        open: &Open,
        entry: &Entry,
        file: OwnedFd,
        seen: &Seen,
        xattrs: &Xattrs,
    ) -> rustix::io::Result<()> {
        let target = self.target()?;
        let permissions = seen.stamp.permissions();
        let may_inherit = open.meta.gives_acl;
        if may_inherit {
            self.remove_other_xattrs(file.as_fd(), xattrs)?;
        }
        let mode = if xattrs.is_empty() {
            permissions
        } else {
            let path = join(&open.path, entry.name.to_bytes());
            set_all(target, Onto::Open(file.as_fd()), xattrs, permissions, &self.refusals, &path)?
        };
        if mode & 0o7000 != 0 || mode != permissions || may_inherit {
            target.chmod_open(&file, mode)?;
        }
        target.set_times_open(&file, &seen.times())?;
        if self.options.durability == Durability::EachFile {
            target.sync_file(&file)?;
        }
        target.close(file)
    }
}
