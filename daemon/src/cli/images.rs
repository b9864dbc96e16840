//! `connect-migrator images`.

use super::Exit;
use comfy_table::{ContentArrangement, Table, presets};
use connect_migrator_images::bakery::{self, Available, Target};
use std::path::Path;

/// Prints everything that a bakery file builds.
pub(super) fn run(file: &Path, image: Option<&str>, available: &[String], json: bool) -> Exit {
    let read = match bakery::read(file) {
        Ok(read) => read,
        Err(error) => return Exit::Failed.because(&error),
    };
    if !read.warnings.items().is_empty() {
        complain!("{}\n", read.warnings.render_as_warnings(false));
    }
    let available = match versions_given(available) {
        Ok(available) => available,
        Err(error) => return Exit::Usage.because(&error),
    };
    let mut targets = match read.bakery.targets(&available) {
        Ok(targets) => targets,
        Err(error) => return Exit::Failed.because(&error),
    };
    if let Some(name) = image {
        let names: Vec<&str> = read.bakery.images.iter().map(|image| image.name.as_str()).collect();
        if !names.contains(&name) {
            let there = names.join(", ");
            return Exit::Failed
                .because(&format!("{} has no image `{name}`; it has {there}", file.display()));
        }
        targets.retain(|target| target.image == name);
    }
    if json {
        return match serde_json::to_string_pretty(&targets) {
            Ok(text) => {
                say_line!("{text}");
                Exit::Done
            }
            Err(error) => Exit::Failed.because(&error),
        };
    }
    say_line!("{}", table(&targets));
    for open in targets.iter().filter_map(|target| Some((target, target.open.as_ref()?))) {
        say_line!("{} {}: {}", open.0.image, open.0.version, open.1);
    }
    Exit::Done
}

/// `R=4.5.3,4.4.3` and the like.
fn versions_given(given: &[String]) -> Result<Available, String> {
    let mut all = Available::new();
    for text in given {
        let (name, versions) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is not of the form DEPENDENCY=VERSION,VERSION"))?;
        let versions = versions.split(',').map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        all.entry(name.trim().to_owned()).or_default().extend(versions);
    }
    Ok(all)
}

fn table(targets: &[Target]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["IMAGE", "VERSION", "VARIANT", "OS", "PLATFORM", "DEPENDENCIES", "TAGS"]);
    let none = || "-".to_owned();
    for target in targets {
        let dependencies: Vec<String> = target
            .dependencies
            .iter()
            .map(|d| format!("{} {}", d.dependency, d.versions.join(", ")))
            .collect();
        table.add_row([
            target.image.clone(),
            target.version.clone(),
            target.variant.clone().unwrap_or_else(none),
            target.os.clone().unwrap_or_else(none),
            target.platforms.join("\n"),
            dependencies.join("\n"),
            target.tags.join("\n"),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "repository: {url: x}\nimages:\n- name: connect\n  versions: [{name: 1.2.3, os: [{name: A}]}]\n";

    #[test]
    fn a_row_has_everything_of_a_build() {
        let read = bakery::read_text("b", FILE).unwrap();
        let targets = read.bakery.targets(&Available::new()).unwrap();
        let shown = table(&targets).to_string();
        for part in ["connect", "1.2.3", "linux/amd64", "connect:1.2.3-a"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn a_file_or_image_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bakery.yaml");
        assert_eq!(run(&file, None, &[], false), Exit::Failed);
        std::fs::write(&file, FILE).unwrap();
        assert_eq!(run(&file, Some("conect"), &[], false), Exit::Failed);
        assert_eq!(run(&file, None, &["R".into()], false), Exit::Usage);
        assert_eq!(run(&file, Some("connect"), &["R=1,2".into()], true), Exit::Done);
        std::fs::write(&file, "images: 3\n").unwrap();
        assert_eq!(run(&file, None, &[], false), Exit::Failed);
    }

    #[test]
    fn versions_for_constraints_are_read() {
        let given = versions_given(&["R=4.5.3, 4.4.1".into(), "R=3.6.3".into()]).unwrap();
        assert_eq!(given["R"], ["4.5.3", "4.4.1", "3.6.3"]);
    }
}
