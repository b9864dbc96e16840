use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Gcfg {
    Gcfg::parse(text).unwrap()
}

#[test]
fn values_are_read_by_the_grammar() {
    let cfg = read(concat!(
        "\u{feff}; a comment\r\n[Server] # trailing\r\nAddress = https://c.example.com ; trailing\r\n",
        "dataDIR=/mnt/data\n[HTTP]\n Listen = \":3939\" # x\n[server]\nAddress = \"a;b#c\"\n",
        "[RPackageRepository \"CRAN \\\"x\\\"\"]\nURL = http://a\\\nb\n",
        "[Mixed]\nA = x\" y;\"z  \nB = say \\\"hi\\\"\nC = \"tab\\tnl\\n\\\\\"\nD\nE =\nF = \"\"\n",
    ));
    assert_eq!(cfg.get("SERVER", None, "address").as_deref(), Some("a;b#c"));
    assert_eq!(cfg.get_all("Server", None, "Address"), ["https://c.example.com", "a;b#c"]);
    assert_eq!(cfg.get("Server", None, "DataDir").as_deref(), Some("/mnt/data"));
    assert_eq!(cfg.get("HTTP", None, "Listen").as_deref(), Some(":3939"));
    assert_eq!(cfg.get("rpackagerepository", Some("CRAN \"x\""), "url").as_deref(), Some("http://ab"));
    assert_eq!(cfg.get("RPackageRepository", Some("cran \"x\""), "URL"), None);
    assert_eq!(cfg.get("Mixed", None, "A").as_deref(), Some("x y;z"));
    assert_eq!(cfg.get("Mixed", None, "B").as_deref(), Some("say \"hi\""));
    assert_eq!(cfg.get("Mixed", None, "C").as_deref(), Some("tab\tnl\n\\"));
    assert_eq!(cfg.get("Mixed", None, "D"), None);
    assert_eq!(cfg.get_bool("Mixed", None, "D"), Some(true));
    assert_eq!(cfg.get("Mixed", None, "E").as_deref(), Some(""));
    assert_eq!(cfg.get("Mixed", None, "F").as_deref(), Some(""));
}

#[test]
fn a_bare_key_drops_the_values_before_it() {
    let cfg = read("[Python]\nExecutable = a\nExecutable\nExecutable = b\n");
    assert_eq!(cfg.get_all("Python", None, "Executable"), ["b"]);
}

#[test]
fn errors_say_where_and_what() {
    for (text, line, column, what) in [
        ("Address = x\n", 1, 1, "below a `[Section]`"),
        ("[Server]\nAddress x\n", 2, 9, "expected `=`"),
        ("[Server\nA = b\n", 1, 8, "expected `]`"),
        ("[Server] x\n", 1, 10, "end of the line"),
        ("[Se rver]\n", 1, 5, "expected `]`"),
        ("[a.b]\n", 1, 3, "[name \"sub\"]"),
        ("[A \"\"]\n", 1, 4, "must not be empty"),
        ("[A \"x\\n\"]\n", 1, 6, "may be escaped"),
        ("[A]\nB = \"open\nC = d\n", 2, 5, "not closed"),
        ("[A]\nB = \"open", 2, 5, "not closed"),
        ("[A]\nB = c:\\d\n", 2, 7, "put the value in quotes"),
        ("[A]\nB = \"\\q\"\n", 2, 6, "unknown escape"),
        ("[A]\n\tä = é \"\n", 2, 8, "not closed"),
        ("[A]\n=b\n", 2, 1, "expected a `[Section]`"),
        ("[A]\nB_C = d\n", 2, 2, "expected `=`"),
    ] {
        let error = Gcfg::parse(text).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{text:?}: {error}");
        assert!(error.what.contains(what), "{text:?}: {error}");
    }
    let error = Gcfg::parse(b"[A]\nB = \xff\n").unwrap_err();
    assert_eq!((error.line, error.column), (2, 5));
}

#[test]
fn an_error_shows_its_line_with_a_caret_but_no_secret() {
    let error = Gcfg::parse("[Server]\nAddress https\n").unwrap_err();
    insta::assert_snapshot!(error.caret(), @r"
    2 | Address https
      |         ^ expected `=` after the key
    ");
    let error = Gcfg::parse("[Postgres]\nPassword = \"hunter2\n").unwrap_err();
    assert!(!error.caret().contains("hunter2"), "{}", error.caret());
}

#[test]
fn setting_a_value_changes_only_its_bytes() {
    for (before, after) in [
        ("[S]\nK = old ; why\nL = x\n", "[S]\nK = new ; why\nL = x\n"),
        ("[S]\r\nK=\"o l d\"   # c\r\n", "[S]\r\nK= new   # c\r\n"),
        ("[s]\nk = a\n[S]\nK = b\n", "[s]\nk = a\n[S]\nK = new\n"),
        ("[S]\nK =;c\n", "[S]\nK = new ;c\n"),
        ("[S]\nK\n", "[S]\nK = new\n"),
        ("[S]\nK = a\\\n  b\nL = c\n", "[S]\nK = new\nL = c\n"),
        ("[S]\nL = c\n\n; next\n[T]\n", "[S]\nL = c\nK = new\n\n; next\n[T]\n"),
        ("[S]", "[S]\nK = new\n"),
        ("[T]\r\nA = b", "[T]\r\nA = b\r\n\r\n[S]\r\nK = new\r\n"),
        ("", "[S]\nK = new\n"),
        ("\u{feff}", "\u{feff}[S]\nK = new\n"),
    ] {
        let mut cfg = read(before);
        cfg.set("S", None, "K", "new").unwrap();
        assert_eq!(cfg.as_str(), after, "{before:?}");
        assert_eq!(cfg.get("S", None, "K").as_deref(), Some("new"));
    }
}

#[test]
fn one_of_several_values_can_be_changed_or_removed() {
    let mut cfg = read("[Python]\nExecutable = /a ; one\nExecutable = /b\nEnabled = true\n");
    cfg.set_nth("Python", None, "Executable", 0, "/c").unwrap();
    cfg.remove_nth("Python", None, "Executable", 1).unwrap();
    assert_eq!(cfg.as_str(), "[Python]\nExecutable = /c ; one\nEnabled = true\n");
    assert!(cfg.set_nth("Python", None, "Executable", 1, "/x").is_err());
    assert!(cfg.remove_nth("Python", None, "Executable", 1).is_err());
}

#[test]
fn what_cannot_be_written_is_refused_and_changes_nothing() {
    let mut cfg = read("[S]\nK = v\n");
    assert!(cfg.set("S", None, "K", "a\rb").is_err());
    assert!(cfg.set("S x", None, "K", "a").is_err());
    assert!(cfg.set("S", None, "K_x", "a").is_err());
    assert!(cfg.set("S", Some(""), "K", "a").is_err());
    assert_eq!(cfg.as_str(), "[S]\nK = v\n");
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("[Server]".to_string()),
        Just("[server] ; c".to_string()),
        Just("[RPackageRepository \"CRAN\"]".to_string()),
        Just("[A \"q\\\"\\\\\"]# x".to_string()),
        Just("; comment \" [".to_string()),
        Just("\t # é".to_string()),
        Just(String::new()),
        Just("Key".to_string()),
        Just("Key =".to_string()),
        "[kK]ey ?= ?[a-z/:.]{0,8}( ;.{0,5})?",
        "K-2 = \"[ a-z;#é]{0,8}\"[a-z]{0,3}  ",
        Just("Long = a \\\n  b".to_string()),
        Just("Long = a\\\r\n\tb \"q;#\" c ; d".to_string()),
        Just("Key = \"tab\\t nl\\n q\\\" b\\\\\" tail # c".to_string()),
        Just("key=say \\\"hi\\\"".to_string()),
        Just("  Key\t=\t\"\"  ".to_string()),
        Just("[ RPackageRepository  \"CRAN\" ]".to_string()),
    ]
}

fn file() -> impl Strategy<Value = String> {
    (
        any::<bool>(),
        prop::collection::vec((piece(), prop_oneof![Just("\n"), Just("\r\n")]), 0..12),
        any::<bool>(),
    )
        .prop_map(|(bom, lines, end)| {
            let mut text = String::from(if bom { "\u{feff}" } else { "" });
            text.push_str("[First]\n");
            for (line, newline) in &lines {
                text.push_str(line);
                text.push_str(newline);
            }
            if !end {
                text.push_str("[Last]\nKey = x");
            }
            text
        })
}

type Seen = Vec<(String, Option<String>, String, Option<String>)>;

fn seen(cfg: &Gcfg) -> Seen {
    cfg.settings()
        .map(|s| (s.section.into(), s.subsection.map(Into::into), s.key.into(), s.value.map(Into::into)))
        .collect()
}

proptest! {
    #[test]
    fn any_file_comes_back_byte_by_byte(text in file()) {
        let cfg = Gcfg::parse(&text).unwrap();
        prop_assert_eq!(cfg.to_bytes(), text.into_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        match Gcfg::parse(&bytes) {
            Ok(cfg) => prop_assert_eq!(cfg.to_bytes(), bytes),
            Err(error) => { let _ = error.caret(); }
        }
    }

    #[test]
    fn any_text_is_read_or_refused_without_harm(text in "[\\[\\]a-z\"\\\\;#= \t\r\n\0é]{0,60}") {
        match Gcfg::parse(&text) {
            Ok(cfg) => prop_assert_eq!(cfg.to_bytes(), text.into_bytes()),
            Err(error) => { let _ = error.caret(); }
        }
    }

    #[test]
    fn a_set_value_is_read_back_and_every_other_setting_stays(
        text in file(), value in "[ -~\t\né]{0,20}", key in prop_oneof![Just("Key"), Just("Fresh"), Just("K-2")],
        sub in prop_oneof![Just(None), Just(Some("CRAN"))],
    ) {
        let section = if sub.is_some() { "RPackageRepository" } else { "Server" };
        let before = Gcfg::parse(&text).unwrap();
        let mut after = before.clone();
        after.set(section, sub, key, &value).unwrap();
        prop_assert_eq!(after.get(section, sub, key), Some(value));
        let changed: Vec<usize> = {
            let (a, b) = (seen(&before), seen(&after));
            if a.len() == b.len() {
                (0..a.len()).filter(|i| a[*i] != b[*i]).collect()
            } else {
                prop_assert_eq!(a.len() + 1, b.len());
                let at = (0..a.len()).find(|i| a[*i] != b[*i]).unwrap_or(a.len());
                prop_assert_eq!(&a[at..], &b[at + 1..]);
                vec![at]
            }
        };
        prop_assert!(changed.len() <= 1);
        // Every comment is still there.
        for line in text.lines().filter(|l| l.trim_start().starts_with([';', '#'])) {
            prop_assert!(after.as_str().contains(line));
        }
    }

    #[test]
    fn setting_a_value_changes_the_bytes_of_one_value_and_no_other(
        text in file(), value in "[ -~\t\né]{0,20}", key in prop_oneof![Just("Key"), Just("Long"), Just("Fresh")],
    ) {
        let before = Gcfg::parse(&text).unwrap();
        let mut after = before.clone();
        after.set("Server", None, key, &value).unwrap();
        let (old, new) = (before.to_bytes(), after.to_bytes());
        let same = |pairs: &mut dyn Iterator<Item = (&u8, &u8)>| pairs.take_while(|(a, b)| a == b).count();
        let head = same(&mut old.iter().zip(&new));
        let tail = same(&mut old[head..].iter().rev().zip(new[head..].iter().rev()));
        let replaced = &old[head..old.len() - tail];
        let joined = replaced.iter().zip(replaced.iter().skip(1)).any(|pair| pair == (&b'\\', &b'\n'))
            || replaced.windows(3).any(|w| w == b"\\\r\n");
        // What was there goes only where a value stood, and that is one line unless it went on in the next.
        if before.count("Server", None, key) == 0 {
            prop_assert!(replaced.is_empty(), "{replaced:?}");
        } else {
            prop_assert!(joined || !replaced.contains(&b'\n'), "{replaced:?}");
            prop_assert!(!replaced.starts_with(b"[") && !replaced.contains(&b'='), "{replaced:?}");
        }
        prop_assert_eq!(after.get("Server", None, key), Some(value));
        // Once more changes nothing.
        let again = after.to_bytes();
        after.set("Server", None, key, &after.get("Server", None, key).unwrap_or_default()).unwrap();
        prop_assert_eq!(after.to_bytes(), again);
    }
}
