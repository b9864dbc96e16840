//! A tree shaped like a Connect data directory: package caches, environments, bundles with links into the caches, job logs,
//! reports, a few big files. Everything follows from the seed.

use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, XattrFlags};
use std::fs;
use std::io::{Result, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The service's own account.
const SERVICE: u32 = 997;
const RUN_AS: u32 = 1001;
const RUN_AS_COUNT: u64 = 8;
const NOW: i64 = 1_750_000_000;
const YEARS_SECONDS: u64 = 3 * 365 * 86_400;

/// Numbers that only look random (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.roll().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// A small file's size: median 2.7 KB, mean about 6.8, most below 64.
    fn size(&mut self) -> usize {
        if self.once_in(50) {
            return 0;
        }
        let bell: f64 = (0..12).map(|_| self.below(1 << 20) as f64 / f64::from(1 << 20)).sum::<f64>() - 6.0;
        ((1.3 * bell).exp() * 3_000.0).min(262_144.0) as usize
    }
}

/// What was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Made {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub links: u64,
    /// Bytes in files, holes included.
    pub bytes: u64,
}

pub(crate) struct Grower {
    pub(crate) root: PathBuf,
    pub(crate) dice: Dice,
    pub(crate) made: Made,
    blob: Vec<u8>,
    folders: Vec<(PathBuf, u32, (u32, u32))>,
}

pub(crate) fn own(path: &Path, owner: (u32, u32)) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    Ok(rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(crate) fn set_time(path: &Path, seconds: i64, nanos: i64) -> Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

impl Grower {
    pub(crate) fn new(root: &Path, seed: u64) -> Result<Self> {
        fs::create_dir_all(root)?;
        let mut dice = Dice::new(seed);
        let blob = dice.bytes(4 << 20);
        Ok(Grower { root: root.into(), dice, made: Made::default(), blob, folders: Vec::new() })
    }

    fn old_time(&mut self) -> (i64, i64) {
        let ago = self.dice.below(YEARS_SECONDS);
        (NOW - i64::try_from(ago).unwrap_or(0), i64::try_from(self.dice.below(1_000_000_000)).unwrap_or(0))
    }

    pub(crate) fn folder(&mut self, path: &Path, mode: u32, owner: (u32, u32)) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent, 0o755, (SERVICE, SERVICE))?;
        }
        fs::create_dir(path)?;
        self.made.folders += 1;
        self.folders.push((path.into(), mode, owner));
        Ok(())
    }

    pub(crate) fn file(&mut self, path: &Path, size: usize, mode: u32, owner: (u32, u32)) -> Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut left = size;
        let mut from = self.dice.below(self.blob.len() as u64 / 2) as usize;
        while left > 0 {
            let piece = self.blob.get(from..).unwrap_or_default();
            let piece = piece.get(..left.min(piece.len())).unwrap_or_default();
            file.write_all(piece)?;
            left -= piece.len();
            from = 0;
        }
        own(path, owner)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        match self.dice.below(200) {
            0 | 1 => rustix::fs::setxattr(path, c"user.origin", b"bundle", XattrFlags::empty())?,
            2 => {
                let acl = acl_with_user(RUN_AS + u32::try_from(self.dice.below(RUN_AS_COUNT)).unwrap_or(0));
                rustix::fs::setxattr(path, c"system.posix_acl_access", &acl, XattrFlags::empty())?;
            }
            _ => {}
        }
        let (seconds, nanos) = self.old_time();
        set_time(path, seconds, nanos)?;
        self.made.files += 1;
        self.made.bytes += size as u64;
        Ok(())
    }

    fn small(&mut self, path: &Path) -> Result<()> {
        let size = self.dice.size();
        self.file(path, size, 0o644, (SERVICE, SERVICE))
    }

    pub(crate) fn link(&mut self, leads_to: &Path, path: &Path) -> Result<()> {
        symlink(leads_to, path)?;
        self.made.symlinks += 1;
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Made> {
        let mut dice = self.dice;
        for (path, mode, owner) in self.folders.iter().rev() {
            own(path, *owner)?;
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
            set_time(path, NOW - i64::try_from(dice.below(YEARS_SECONDS)).unwrap_or(0), 7)?;
        }
        own(&self.root, (SERVICE, SERVICE))?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755))?;
        set_time(&self.root, NOW, 0)?;
        Ok(self.made)
    }

    fn packages(&mut self, files: u64) -> Result<Vec<PathBuf>> {
        let mut packages = Vec::new();
        let end = self.made.files + files;
        while self.made.files < end {
            let (name, hash) = (format!("pkg{}", self.dice.below(1 << 20)), self.dice.roll());
            let version = format!("4.{}.1", 1 + self.dice.below(4));
            let base =
                self.root.join("packrat").join(version).join(format!("v2/library/{name}/{hash:016x}/{name}"));
            self.folder(&base, 0o755, (SERVICE, SERVICE))?;
            for file in ["DESCRIPTION", "NAMESPACE", "INDEX", "MD5", "LICENSE", "NEWS.md"] {
                self.small(&base.join(file))?;
            }
            for folder in ["Meta", "R", "help", "html", "libs", "doc", "include/sub", "data"] {
                let folder = base.join(folder);
                self.folder(&folder, 0o755, (SERVICE, SERVICE))?;
                for number in 0..2 + self.dice.below(9) {
                    self.small(&folder.join(format!("f{number}.R")))?;
                }
            }
            packages.push(base);
        }
        Ok(packages)
    }

    fn environments(&mut self, files: u64) -> Result<()> {
        let end = self.made.files + files;
        let mut before: Vec<PathBuf> = Vec::new();
        while self.made.files < end {
            let env = self.root.join(format!("python-environments/pip/3.11.7/{:016x}", self.dice.roll()));
            let site = env.join("lib/python3.11/site-packages");
            self.folder(&env.join("bin"), 0o755, (SERVICE, SERVICE))?;
            self.folder(&site, 0o755, (SERVICE, SERVICE))?;
            self.link(Path::new("/opt/python/3.11.7/bin/python3"), &env.join("bin/python3"))?;
            self.link(Path::new("lib"), &env.join("lib64"))?;
            self.file(&env.join("pyvenv.cfg"), 120, 0o644, (SERVICE, SERVICE))?;
            let mut own = Vec::new();
            for package in 0..6 + self.dice.below(8) {
                for folder in ["", "core", "core/impl", "tests", "__pycache__"] {
                    let folder = site.join(format!("package{package}")).join(folder);
                    self.folder(&folder, 0o755, (SERVICE, SERVICE))?;
                    for number in 0..3 + self.dice.below(13) {
                        let file = folder.join(format!("m{number}.py"));
                        self.small(&file)?;
                        own.push(file);
                    }
                }
            }
            if !before.is_empty() && self.dice.once_in(2) {
                self.folder(&site.join("_shared"), 0o755, (SERVICE, SERVICE))?;
                for (number, file) in before.iter().take(20).enumerate() {
                    fs::hard_link(file, site.join(format!("_shared/l{number}.py")))?;
                    self.made.links += 1;
                }
            }
            before = own;
        }
        Ok(())
    }

    fn bundles(&mut self, files: u64, packages: &[PathBuf]) -> Result<Vec<(u64, u32)>> {
        let end = self.made.files + files;
        let mut apps = Vec::new();
        let mut id = 1;
        while self.made.files < end {
            id += 1;
            let user = RUN_AS + u32::try_from(self.dice.below(RUN_AS_COUNT)).unwrap_or(0);
            let app = self.root.join(format!("apps/{id}"));
            let bundle = app.join(self.dice.below(100_000).to_string());
            self.folder(&app, 0o2750, (SERVICE, user))?;
            self.folder(&bundle, 0o2770, (user, user))?;
            for folder in ["", "R", "www", "data", "_files/libs"] {
                let folder = bundle.join(folder);
                self.folder(&folder, 0o2770, (user, user))?;
                for number in 0..2 + self.dice.below(12) {
                    let size = self.dice.size();
                    self.file(&folder.join(format!("f{number}.txt")), size, 0o640, (user, user))?;
                }
            }
            let library = bundle.join("packrat/lib/x86_64-pc-linux-gnu");
            self.folder(&library, 0o2770, (user, user))?;
            for number in 0..5 + self.dice.below(20) {
                let Some(package) = packages.get(self.dice.below(packages.len() as u64) as usize) else {
                    break;
                };
                let inside = package.strip_prefix(&self.root).unwrap_or(package);
                self.link(
                    &Path::new("/var/lib/rstudio-connect").join(inside),
                    &library.join(format!("p{number}")),
                )?;
            }
            apps.push((id, user));
        }
        Ok(apps)
    }

    fn logs_and_reports(&mut self, files: u64, apps: &[(u64, u32)]) -> Result<()> {
        let end = self.made.files + files;
        while self.made.files < end {
            let (app, user) =
                apps.get(self.dice.below(apps.len() as u64) as usize).copied().unwrap_or((1, RUN_AS));
            let job = self.root.join(format!("jobs/{app}/{:016x}", self.dice.roll()));
            self.folder(&job, 0o750, (SERVICE, SERVICE))?;
            for (file, most) in
                [("job.json", 900), ("stdout", 2_000), ("stderr", 4_000), ("environment", 400)]
            {
                let size = self.dice.below(most) as usize;
                self.file(&job.join(file), size, 0o640, (SERVICE, SERVICE))?;
            }
            if self.dice.once_in(3) {
                let report = self.root.join(format!("reports/v2/{app}/{}", self.dice.below(1_000_000)));
                self.folder(&report, 0o770, (user, SERVICE))?;
                for number in 0..1 + self.dice.below(6) {
                    let (file, size) = (report.join(format!("page{number}.html")), self.dice.size() * 3);
                    if !file.exists() {
                        self.file(&file, size, 0o660, (user, SERVICE))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn big(&mut self, tarballs: u64, sparse: u64) -> Result<()> {
        for number in 0..tarballs {
            let folder = self.root.join(format!("bundles/{}", number % 10));
            self.folder(&folder, 0o750, (SERVICE, SERVICE))?;
            self.file(&folder.join(format!("bundle-{number}.tar.gz")), 5 << 20, 0o640, (SERVICE, SERVICE))?;
        }
        for number in 0..sparse {
            let folder = self.root.join("metrics/rrd");
            self.folder(&folder, 0o755, (SERVICE, SERVICE))?;
            let path = folder.join(format!("host{number}.rrd"));
            let file = fs::File::create(&path)?;
            file.set_len(64 << 20)?;
            for at in [0, 21 << 20, (64 << 20) - 4096] {
                std::os::unix::fs::FileExt::write_all_at(
                    &file,
                    self.blob.get(..4096).unwrap_or_default(),
                    at,
                )?;
            }
            set_time(&path, NOW, 1)?;
            self.made.files += 1;
            self.made.bytes += 64 << 20;
        }
        Ok(())
    }
}

/// An access ACL that gives one more user reading.
pub(crate) fn acl_with_user(user: u32) -> Vec<u8> {
    acl(&[(1, 6, u32::MAX), (2, 4, user), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)])
}

pub(crate) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut blob = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        blob.extend_from_slice(&tag.to_le_bytes());
        blob.extend_from_slice(&permissions.to_le_bytes());
        blob.extend_from_slice(&id.to_le_bytes());
    }
    blob
}

/// Makes a tree of about `files` small files, with `tarballs` of 5 MiB and `sparse` of 64 MiB that are mostly holes.
///
/// # Errors
/// When an entry cannot be made (needs root, for owners).
pub fn grow(root: &Path, files: u64, tarballs: u64, sparse: u64, seed: u64) -> Result<Made> {
    let mut grower = Grower::new(root, seed)?;
    let packages = grower.packages(files * 45 / 100)?;
    grower.environments(files * 30 / 100)?;
    let apps = grower.bundles(files * 13 / 100, &packages)?;
    grower.logs_and_reports(files * 12 / 100, &apps)?;
    grower.big(tarballs, sparse)?;
    grower.finish()
}

/// What [`change`] did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changed {
    /// Entries changed, made or removed.
    pub entries: u64,
}

/// Changes about one file in a hundred the way a live Connect does: rewritten, grown, removed, made, other modes, renamed; and
/// one rewrite of the same size with the old time put back, one file that becomes a hard link of another, one other symbolic
/// link, one renamed folder.
///
/// # Errors
/// When an entry cannot be changed.
pub fn change(root: &Path, seed: u64) -> Result<Changed> {
    let mut dice = Dice::new(seed);
    let (mut files, mut folders, mut links) = (Vec::new(), Vec::new(), Vec::new());
    let mut to_list = vec![root.to_owned()];
    while let Some(folder) = to_list.pop() {
        let mut names: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let (path, meta) = (entry.path(), entry.metadata()?);
            if meta.is_dir()
                && !path.ends_with("odd")
                && !entry.file_name().to_string_lossy().starts_with("deep")
            {
                folders.push(path.clone());
                to_list.push(path);
            } else if meta.is_file() && meta.nlink() == 1 && meta.len() < 1 << 20 {
                files.push(path);
            } else if meta.is_symlink() {
                links.push(path);
            }
        }
    }
    let total = files.len() as u64;
    let mut take = || (!files.is_empty()).then(|| files.swap_remove(dice.below(files.len() as u64) as usize));
    let mut bytes = Dice::new(seed ^ 1);
    let mut changed = Changed::default();
    let share = |thousandths: u64| (total * thousandths / 1_000).max(1);
    let mut each = |count: u64, act: &mut dyn FnMut(&Path) -> Result<()>| -> Result<()> {
        for _ in 0..count {
            let Some(path) = take() else { break };
            act(&path)?;
            changed.entries += 1;
        }
        Ok(())
    };
    let mut rewrite = |path: &Path| -> Result<()> {
        let size = fs::metadata(path)?.len() as usize;
        fs::OpenOptions::new().write(true).open(path)?.write_all(&bytes.bytes(size))
    };
    each(share(3), &mut rewrite)?;
    each(share(2), &mut |path| fs::OpenOptions::new().append(true).open(path)?.write_all(&[b'x'; 100]))?;
    each(share(2), &mut |path| fs::remove_file(path))?;
    each(share(1), &mut |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))?;
    each(share(1), &mut |path| fs::rename(path, path.with_extension("moved")))?;
    each(1, &mut |path| {
        let meta = fs::metadata(path)?;
        rewrite(path)?;
        set_time(path, meta.mtime(), meta.mtime_nsec())
    })?;
    let mut linked: Option<PathBuf> = None;
    each(2, &mut |path| match linked.take() {
        None => {
            linked = Some(path.into());
            Ok(())
        }
        Some(other) => fs::remove_file(path).and_then(|()| fs::hard_link(other, path)),
    })?;
    for number in 0..share(4) {
        let folder = root.join(format!("jobs/new/{}", number / 4));
        fs::create_dir_all(&folder)?;
        let size = dice.below(2_000) as usize;
        fs::write(folder.join(format!("stdout{number}")), dice.bytes(size))?;
        changed.entries += 1;
    }
    if let Some(link) = links.first() {
        fs::remove_file(link)?;
        symlink("/elsewhere", link)?;
        changed.entries += 1;
    }
    if let Some(folder) = folders.iter().find(|folder| folder.ends_with("help")) {
        fs::rename(folder, folder.with_extension("renamed"))?;
        changed.entries += 2;
    }
    Ok(changed)
}
