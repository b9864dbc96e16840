//! A whole nginx configuration with its includes, as one tree of directives that each know their bytes.

use super::{glob, token};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// Includes within includes, at most: deeper is taken for a file that includes itself.
const MAX_INCLUDE_DEPTH: usize = 32;
/// Directives in all, at most: more is taken for a configuration that multiplies itself by includes.
const MAX_DIRECTIVES: usize = 1_000_000;

/// The place of a [`Node`] in its [`Configuration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(usize);

/// The place of a [`File`] in its [`Configuration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(usize);

/// An argument of a directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// What nginx makes of it.
    pub value: String,
    /// Where it stands in its file, with its quotes.
    pub span: Range<usize>,
}

/// A directive, simple or with a block.
#[derive(Debug, Clone)]
pub struct Node {
    /// `server`, `proxy_pass`, …
    pub name: String,
    /// What follows the name.
    pub args: Vec<Word>,
    /// Whether it opens a block.
    pub is_block: bool,
    /// The file that it stands in.
    pub file: FileId,
    /// From 1.
    pub line: usize,
    /// The directive whose block it stands in, also across an include.
    pub parent: Option<NodeId>,
    /// The `include` that brought its file in.
    pub via: Option<NodeId>,
    /// What stands in its block, includes resolved, in the order of reading.
    pub children: Vec<NodeId>,
}

impl Node {
    /// The value of the argument at `index`.
    #[must_use]
    pub fn arg(&self, index: usize) -> Option<&str> {
        self.args.get(index).map(|word| word.value.as_str())
    }
}

/// A file of the configuration.
#[derive(Debug, Clone)]
pub struct File {
    /// As the main file or an `include` names it.
    pub path: PathBuf,
    /// With symbolic links resolved: the file to edit.
    pub real: PathBuf,
    /// What stands in it.
    pub bytes: Vec<u8>,
}

/// Why a configuration cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {what}", .file.display(), if *.line == 0 { String::new() } else { format!(":{}", .line) })]
pub struct ConfError {
    /// The file that the fault is in.
    pub file: PathBuf,
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Configuration {
    main: PathBuf,
    files: Vec<File>,
    by_path: HashMap<PathBuf, FileId>,
    nodes: Vec<Node>,
    roots: Vec<NodeId>,
}

impl Configuration {
    /// Reads the configuration that starts with the file `main`, which must be absolute. Relative includes are taken from its
    /// folder, as nginx does.
    ///
    /// # Errors
    /// When a file is missing or cannot be read, or its blocks, quotes and semicolons do not fit.
    pub fn read(main: &Path) -> Result<Self, ConfError> {
        let mut configuration = Configuration {
            main: normal(main),
            files: Vec::new(),
            by_path: HashMap::new(),
            nodes: Vec::new(),
            roots: Vec::new(),
        };
        let main = configuration.main.clone();
        configuration.read_file(&main, None, None, 0)?;
        Ok(configuration)
    }

    /// The main file.
    #[must_use]
    pub fn main(&self) -> &Path {
        &self.main
    }

    /// The folder that relative includes, certificates and the like are taken from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.main.parent().unwrap_or(Path::new("/"))
    }

    /// Every file, once for each path it is included by.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &File)> {
        self.files.iter().enumerate().map(|(index, file)| (FileId(index), file))
    }

    /// Every directive, in the order of reading.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId(index), node))
    }

    /// The directives outside of all blocks.
    #[must_use]
    pub fn roots(&self) -> &[NodeId] {
        &self.roots
    }

    /// The directive `id`.
    #[must_use]
    #[allow(
        clippy::indexing_slicing,
        reason = "a NodeId is only made by this configuration, which never shrinks"
    )]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The file `id`.
    #[must_use]
    #[allow(
        clippy::indexing_slicing,
        reason = "a FileId is only made by this configuration, which never shrinks"
    )]
    pub fn file(&self, id: FileId) -> &File {
        &self.files[id.0]
    }

    /// The directives named `name` directly in the block of `id`.
    pub fn children<'a>(&'a self, id: NodeId, name: &'a str) -> impl Iterator<Item = NodeId> + 'a {
        self.node(id).children.iter().copied().filter(move |child| self.node(*child).name == name)
    }

    /// `id`'s block, the block around that, and so on.
    pub fn ancestors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(self.node(id).parent, |id| self.node(*id).parent)
    }

    /// `path:line` of a directive.
    #[must_use]
    pub fn place(&self, id: NodeId) -> String {
        let node = self.node(id);
        format!("{}:{}", self.file(node.file).path.display(), node.line)
    }

    /// Whether the directive stands in the file with the resolved path `real`, in a block that does, or in a file that is
    /// included from there.
    #[must_use]
    pub fn is_within(&self, id: NodeId, real: &Path) -> bool {
        let mut ids = vec![id];
        while let Some(id) = ids.pop() {
            let node = self.node(id);
            if self.file(node.file).real == real {
                return true;
            }
            ids.extend(node.parent);
            ids.extend(node.via);
        }
        false
    }

    fn read_file(
        &mut self,
        path: &Path,
        parent: Option<NodeId>,
        via: Option<NodeId>,
        depth: usize,
    ) -> Result<(), ConfError> {
        let file = self.open(path)?;
        let bytes = self.file(file).bytes.clone();
        let fault = |line, what: &str| ConfError { file: path.into(), line, what: what.into() };
        let tokens = token::tokens(&bytes).map_err(|error| fault(error.line, &error.what))?;

        let mut open: Vec<NodeId> = Vec::new();
        let mut words: Vec<(Word, usize)> = Vec::new();
        for token in tokens {
            match token.kind {
                token::Kind::Space | token::Kind::Comment | token::Kind::Foreign => {}
                token::Kind::Word => {
                    let value = token::value(bytes.get(token.span.clone()).unwrap_or_default());
                    words.push((Word { value, span: token.span }, token.line));
                }
                token::Kind::Semicolon | token::Kind::Open => {
                    let is_block = token.kind == token::Kind::Open;
                    if words.is_empty() {
                        return Err(fault(
                            token.line,
                            if is_block { "unexpected `{`" } else { "unexpected `;`" },
                        ));
                    }
                    let parent = open.last().copied().or(parent);
                    let id = self.push(std::mem::take(&mut words), is_block, file, parent, via)?;
                    if is_block {
                        open.push(id);
                    } else if self.node(id).name == "include" {
                        self.include(id, parent, depth)?;
                    }
                }
                token::Kind::Close => {
                    if !words.is_empty() {
                        return Err(fault(token.line, "a `;` is missing before this `}`"));
                    }
                    if open.pop().is_none() {
                        return Err(fault(token.line, "unexpected `}`"));
                    }
                }
            }
        }
        if let Some((_, line)) = words.first() {
            return Err(fault(*line, "the directive that starts here does not end with `;`"));
        }
        match open.last() {
            Some(id) => Err(fault(self.node(*id).line, "the block that opens here is not closed")),
            None => Ok(()),
        }
    }

    fn open(&mut self, path: &Path) -> Result<FileId, ConfError> {
        if let Some(id) = self.by_path.get(path) {
            return Ok(*id);
        }
        let fault = |error: std::io::Error| ConfError {
            file: path.into(),
            line: 0,
            what: format!("the file cannot be read: {error}"),
        };
        let real = path.canonicalize().map_err(fault)?;
        let bytes = std::fs::read(&real).map_err(fault)?;
        let id = FileId(self.files.len());
        self.files.push(File { path: path.into(), real, bytes });
        self.by_path.insert(path.into(), id);
        Ok(id)
    }

    fn push(
        &mut self,
        words: Vec<(Word, usize)>,
        is_block: bool,
        file: FileId,
        parent: Option<NodeId>,
        via: Option<NodeId>,
    ) -> Result<NodeId, ConfError> {
        let line = words.first().map_or(0, |(_, line)| *line);
        if self.nodes.len() >= MAX_DIRECTIVES {
            let what = format!("the configuration has more than {MAX_DIRECTIVES} directives");
            return Err(ConfError { file: self.file(file).path.clone(), line, what });
        }
        let mut words = words.into_iter().map(|(word, _)| word);
        let name = words.next().map(|word| word.value).unwrap_or_default();
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node {
            name,
            args: words.collect(),
            is_block,
            file,
            line,
            parent,
            via,
            children: Vec::new(),
        });
        match parent.and_then(|parent| self.nodes.get_mut(parent.0)) {
            Some(parent) => parent.children.push(id),
            None => self.roots.push(id),
        }
        Ok(id)
    }

    fn include(&mut self, id: NodeId, parent: Option<NodeId>, depth: usize) -> Result<(), ConfError> {
        let node = self.node(id);
        let fault =
            |what: String| ConfError { file: self.file(node.file).path.clone(), line: node.line, what };
        let Some(named) = node.arg(0) else { return Err(fault("`include` names no file".into())) };
        if depth >= MAX_INCLUDE_DEPTH {
            return Err(fault(format!("includes are nested deeper than {MAX_INCLUDE_DEPTH}")));
        }
        let path = self.resolve(named);
        let paths = if glob::is_pattern(named) {
            glob::files(&path).map_err(|error| fault(format!("cannot list {}: {error}", path.display())))?
        } else {
            vec![path]
        };
        for path in paths {
            self.read_file(&path, parent, Some(id), depth + 1)?;
        }
        Ok(())
    }

    /// The absolute path, or pattern, that an `include` means.
    #[must_use]
    pub fn resolve(&self, named: &str) -> PathBuf {
        normal(&self.folder().join(named))
    }
}

/// `path` without `.` and `..`, by its text alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            component => normal.push(component),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        }
        let main = dir.path().join("nginx.conf");
        (dir, main)
    }

    #[test]
    fn includes_become_part_of_the_block_they_stand_in() {
        let (dir, main) = written(&[
            ("nginx.conf", "events {}\nhttp {\n include conf.d/*.conf;\n include DIR/sites/*;\n}\n"),
            ("conf.d/b.conf", "gzip on;"),
            ("conf.d/a.conf", "include snippets/x;\n"),
            ("conf.d/a.txt", "broken {"),
            ("snippets/x", "map $a $b { default 1; }"),
            ("sites/one", "server { listen 80; }"),
        ]);
        let configuration = Configuration::read(&main).unwrap();
        let http = configuration.roots().iter().find(|id| configuration.node(**id).name == "http").unwrap();
        let names: Vec<&str> = configuration
            .node(*http)
            .children
            .iter()
            .map(|id| configuration.node(*id).name.as_str())
            .collect();
        assert_eq!(names, ["include", "include", "map", "gzip", "include", "server"]);
        let (listen, _) = configuration.nodes().find(|(_, node)| node.name == "listen").unwrap();
        assert_eq!(configuration.place(listen), format!("{}/sites/one:1", dir.path().display()));
        let real = dir.path().canonicalize().unwrap();
        assert!(configuration.is_within(listen, &real.join("sites/one")));
        assert!(configuration.is_within(listen, &real.join("nginx.conf")));
        assert!(!configuration.is_within(listen, &real.join("conf.d/b.conf")));
    }

    #[test]
    fn faults_are_named_with_file_and_line() {
        let cases = [
            ("a;\nb\n", ":2: the directive that starts here does not end with `;`"),
            ("a {\nb;\n", ":1: the block that opens here is not closed"),
            ("a;\n}\n", ":2: unexpected `}`"),
            ("a {\n b }\n", ":2: a `;` is missing before this `}`"),
            (";", ":1: unexpected `;`"),
            ("\ninclude absent.conf;", "/absent.conf: the file cannot be read: "),
            ("include nginx.conf;", ":1: includes are nested deeper than 32"),
            ("include;", ":1: `include` names no file"),
        ];
        for (text, wanted) in cases {
            let (_dir, main) = written(&[("nginx.conf", text)]);
            let error = Configuration::read(&main).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_file_that_includes_itself_twice_ends_with_an_error() {
        let (_dir, main) = written(&[("nginx.conf", "include *.conf; include *.conf;")]);
        assert!(Configuration::read(&main).is_err());
    }
}
