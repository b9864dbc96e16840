//! What is left out.

use crate::error::CopyError;
use crate::options::Options;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Excluded paths as a tree, so that a walk carries only its own branch along.
#[derive(Debug, Default)]
pub(crate) struct Exclude {
    whole: bool,
    below: BTreeMap<Vec<u8>, Arc<Exclude>>,
}

impl Exclude {
    /// What a copy leaves out, on whichever side is read: what is excluded, and what is nobody's business at the root. `None` when
    /// that is nothing.
    pub(crate) fn of(options: &Options) -> Result<Option<Arc<Exclude>>, CopyError> {
        Exclude::new(&options.exclude, &options.ignore_at_root)
    }

    fn new(paths: &[PathBuf], at_root: &[String]) -> Result<Option<Arc<Exclude>>, CopyError> {
        let mut root = Exclude::default();
        for path in paths {
            let mut names = Vec::new();
            for component in path.components() {
                match component {
                    Component::Normal(name) => names.push(name.as_bytes()),
                    Component::CurDir => {}
                    _ => return Err(not_relative(path)),
                }
            }
            if names.is_empty() {
                return Err(not_relative(path));
            }
            root.add(&names);
        }
        for name in at_root {
            root.add(&[name.as_bytes()]);
        }
        Ok((!root.below.is_empty()).then(|| Arc::new(root)))
    }

    fn add(&mut self, names: &[&[u8]]) {
        let Some((first, rest)) = names.split_first() else {
            self.whole = true;
            return;
        };
        let child = self.below.entry(first.to_vec()).or_default();
        if let Some(child) = Arc::get_mut(child) {
            child.add(rest);
        }
    }

    /// What holds for `name` in this folder.
    pub(crate) fn at(&self, name: &[u8]) -> At {
        match self.below.get(name) {
            Some(child) if child.whole => At::Excluded,
            Some(child) => At::Below(Arc::clone(child)),
            None => At::Free,
        }
    }
}

/// What holds for one name.
#[derive(Debug)]
pub(crate) enum At {
    /// Left out with all below it.
    Excluded,
    /// Something below it is left out.
    Below(Arc<Exclude>),
    /// Nothing is left out.
    Free,
}

fn not_relative(path: &Path) -> CopyError {
    CopyError::Setting(format!(
        "`{}` cannot be left out: give a path relative to the source, without `..`",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_excludes_what_is_below_it_and_not_its_neighbours() {
        let tree = Exclude::new(&["packrat".into(), "./a/b".into()], &[]).unwrap().unwrap();
        assert!(matches!(tree.at(b"packrat"), At::Excluded));
        assert!(matches!(tree.at(b"packrat2"), At::Free));
        let At::Below(a) = tree.at(b"a") else { panic!() };
        assert!(matches!(a.at(b"b"), At::Excluded));
        assert!(matches!(a.at(b"c"), At::Free));
    }

    #[test]
    fn absolute_paths_and_paths_upwards_are_refused() {
        for bad in ["/etc", "a/../b", "", "."] {
            assert!(Exclude::new(&[bad.into()], &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_ignored_at_the_root_is_only_left_out_there() {
        let tree = Exclude::new(&["a/b".into()], &["lost+found".into()]).unwrap().unwrap();
        assert!(matches!(tree.at(b"lost+found"), At::Excluded));
        let At::Below(a) = tree.at(b"a") else { panic!() };
        assert!(matches!(a.at(b"lost+found"), At::Free));
        assert!(Exclude::new(&[], &[]).unwrap().is_none());
    }
}
