//! What the data directory lies on.

use std::path::{Path, PathBuf};

/// File systems that several machines can share and that keep owners, links and locks.
const SHARED: [&str; 10] =
    ["nfs", "nfs4", "ceph", "fuse.ceph", "fuse.glusterfs", "lustre", "gpfs", "beegfs", "gfs2", "ocfs2"];

/// Where an export is mounted, unless that place is taken.
pub(super) const MOUNT: &str = "/mnt/connect";
/// Where else; numbers follow after these.
const OTHER_MOUNTS: [&str; 2] = ["/mnt/connect-data", "/srv/connect-data"];
/// How many numbers are tried.
const MOUNTS_TRIED: usize = 100;

/// A place to mount `export` at: none that holds the data to be copied, lies among them, or has something of its own.
pub(super) fn free_mount(data_dir: &Path, export: Option<&str>) -> PathBuf {
    let data = data_dir.canonicalize().unwrap_or_else(|_| data_dir.into());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    first_free(|place| {
        let apart = |data: &Path| !data.starts_with(place) && !place.starts_with(data);
        // What is mounted there may be the export already.
        let free = match Storage::holding(place, &mounts) {
            Some(held) if held.at == place => Some(held.source.as_str()) == export,
            _ => std::fs::read_dir(place).map_or(!place.exists(), |mut entries| entries.next().is_none()),
        };
        apart(&data) && apart(data_dir) && free
    })
}

fn first_free(is_free: impl Fn(&Path) -> bool) -> PathBuf {
    let numbered = (2..MOUNTS_TRIED).map(|number| PathBuf::from(format!("{MOUNT}-{number}")));
    let mut places = [MOUNT].into_iter().chain(OTHER_MOUNTS).map(PathBuf::from).chain(numbered);
    // None: the check of the step says what is wrong with it.
    places.find(|place| is_free(place)).unwrap_or_else(|| MOUNT.into())
}

/// The file system that holds a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Where it is mounted.
    pub(super) at: PathBuf,
    /// `nfs4`, `ext4`, …
    pub(super) kind: String,
    /// What is mounted: `nas:/export/connect`.
    pub(super) source: String,
}

impl Storage {
    /// Whether another host could take it over.
    pub(super) fn is_shared(&self) -> bool {
        SHARED.contains(&self.kind.as_str())
    }

    /// What holds `folder`, links resolved.
    ///
    /// # Errors
    /// When the folder is not there, or nothing is known about it.
    pub(super) fn of(folder: &Path) -> Result<Self, String> {
        let real = folder.canonicalize().map_err(|error| error.to_string())?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        Self::holding(&real, &mounts).ok_or_else(|| "no mount holds it".to_owned())
    }

    fn holding(path: &Path, mountinfo: &str) -> Option<Self> {
        let mut best: Option<Storage> = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(at), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
            let at = PathBuf::from(at.replace("\\040", " "));
            // The last of several mounts on one place is the one that is seen.
            let nearer = best.as_ref().is_none_or(|best| at.as_os_str().len() >= best.at.as_os_str().len());
            if path.starts_with(&at) && nearer {
                let kind = right.next().unwrap_or_default().to_owned();
                best = Some(Storage { at, kind, source: right.next().unwrap_or_default().to_owned() });
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_not_mounted_over_the_data_that_are_copied_to_it() {
        for data in ["/mnt/connect", "/mnt/connect/data", "/mnt"] {
            let found = free_mount(Path::new(data), Some("nas:/export"));
            assert!(!found.starts_with(data) && !Path::new(data).starts_with(&found), "{data}: {found:?}");
        }
        assert_eq!(first_free(|place| place != Path::new(MOUNT)), Path::new("/mnt/connect-data"));
        assert_eq!(first_free(|_| false), Path::new(MOUNT));
    }

    #[test]
    fn the_nearest_and_last_mount_holds_a_folder() {
        let mounts = "22 1 0:20 / / rw - ext4 /dev/vda rw\n\
            31 22 0:31 / /mnt/my\\040data rw shared:2 - nfs4 nas:/export rw\n\
            32 22 0:32 / /srv rw - xfs /dev/vdb rw\n33 22 0:33 / /srv rw - cifs //nas/x rw\n";
        for (path, kind, shared) in
            [("/mnt/my data/connect", "nfs4", true), ("/var/lib", "ext4", false), ("/srv/x", "cifs", false)]
        {
            let found = Storage::holding(Path::new(path), mounts).unwrap();
            assert_eq!((found.kind.as_str(), found.is_shared()), (kind, shared), "{path}");
        }
    }
}
