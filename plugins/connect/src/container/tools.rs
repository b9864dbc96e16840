//! Interpreters and package repositories: what fits the host's distribution and not the image's.

use super::Work;
use crate::gcfg::{SetError, name_of, parse_bool};
use crate::installation::variable;
use crate::version::Version;
use connect_migrator_sdk::Finding;
use std::path::Path;

/// One interpreter: where the configuration names it, and where Posit's images have it.
struct Tool {
    name: &'static str,
    key: &'static str,
    section: &'static str,
    folder: &'static str,
    program: &'static str,
    on_by_default: bool,
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "R",
        key: "interpreter-r",
        section: "R",
        folder: "/opt/R",
        program: "bin/R",
        on_by_default: true,
    },
    Tool {
        name: "Python",
        key: "interpreter-python",
        section: "Python",
        folder: "/opt/python",
        program: "bin/python",
        on_by_default: false,
    },
    Tool {
        name: "Quarto",
        key: "interpreter-quarto",
        section: "Quarto",
        folder: "/opt/quarto",
        program: "bin/quarto",
        on_by_default: false,
    },
];

impl Tool {
    fn executable(&self, version: &str) -> String {
        format!("{}/{version}/{}", self.folder, self.program)
    }
}

impl Work<'_> {
    pub(super) fn tools(&mut self) -> Result<(), SetError> {
        for tool in &TOOLS {
            let overriding = self.installation.environment.get(&variable(tool.section, "Enabled"));
            let set = match overriding {
                Some(value) => parse_bool(value),
                None => self.derived.gcfg.get_bool(tool.section, None, "Enabled"),
            };
            if !set.unwrap_or(tool.on_by_default) {
                continue;
            }
            let Some(image) = &self.rules.image else { continue };
            let versions = match tool.name {
                "R" => image.r.clone(),
                "Python" => image.python.clone(),
                _ => image.quarto.clone(),
            };
            let mut named = self.derived.gcfg.get_all(tool.section, None, "Executable");
            if tool.name == "R" {
                named.extend(self.derived.gcfg.get_all("Server", None, "RVersion"));
            }
            if versions.is_empty() {
                self.unknown(tool, &named, image.minimal);
                continue;
            }
            self.replace(tool.section, "Executable", &versions, |v| tool.executable(v), tool)?;
            if tool.name == "R" {
                self.replace("Server", "RVersion", &versions, |v| format!("{}/{v}", tool.folder), tool)?;
            }
            // Without a path these two are looked for where the image does not put them.
            let overridden = self.derived.environment.get(&variable(tool.section, "Executable")).cloned();
            if overridden.is_some() || (named.is_empty() && tool.name != "R") {
                let path = tool.executable(versions.first().map_or("", String::as_str));
                self.set(tool.section, "Executable", &path, "where the image has it")?;
            }
            named.extend(overridden);
            self.compare(tool, &named, &versions);
        }
        Ok(())
    }

    fn unknown(&mut self, tool: &Tool, named: &[String], minimal: bool) {
        if minimal {
            self.find(Finding::blocker(
                tool.key,
                format!("{} is switched on, but the image is of the minimal variant, which has none", tool.name),
                "name an image of the standard variant (`-std`), or build one with the interpreters that content needs",
            ));
        } else if !named.is_empty() {
            self.find(Finding::warning(
                tool.key,
                format!(
                    "the image does not tell which {} it has; the configuration names {}",
                    tool.name,
                    named.join(", ")
                ),
                "make sure that the image has them at these paths, or Connect will not start in it",
            ));
        }
    }

    /// Replaces the values of a setting by those of the image, one by one, and removes what is too many.
    fn replace(
        &mut self,
        section: &str,
        key: &str,
        versions: &[String],
        path: impl Fn(&str) -> String,
        tool: &Tool,
    ) -> Result<(), SetError> {
        let old: Vec<(usize, String)> = self
            .derived
            .gcfg
            .settings()
            .filter(|s| s.section.eq_ignore_ascii_case(section) && s.subsection.is_none())
            .filter(|s| s.key.eq_ignore_ascii_case(key))
            .enumerate()
            .filter_map(|(nth, s)| Some((nth, s.value?.to_owned())))
            .collect();
        let mut wanted: Vec<String> = versions.iter().map(|v| path(v)).collect();
        let kept: Vec<&(usize, String)> = old.iter().filter(|(_, value)| wanted.contains(value)).collect();
        let stale: Vec<(usize, String)> =
            old.iter().filter(|(_, value)| !wanted.contains(value)).cloned().collect();
        wanted.retain(|path| !kept.iter().any(|(_, value)| value == path));
        let why = format!("the image has {} {} and not what the host has", tool.name, versions.join(", "));
        let mut gone = Vec::new();
        for (nth, before) in stale {
            let setting = name_of(section, None, key);
            if wanted.is_empty() {
                self.note(setting, key, Some(&before), None, &why);
                gone.push(nth);
            } else {
                let after = wanted.remove(0);
                self.derived.gcfg.set_nth(section, None, key, nth, &after)?;
                self.note(setting, key, Some(&before), Some(&after), &why);
            }
        }
        for nth in gone.into_iter().rev() {
            self.derived.gcfg.remove_nth(section, None, key, nth)?;
        }
        Ok(())
    }

    fn compare(&mut self, tool: &Tool, named: &[String], versions: &[String]) {
        let missing: Vec<String> = named
            .iter()
            .filter_map(|path| version_in(path))
            .filter(|v| {
                !versions.iter().any(|have| Version::parse(have).is_ok_and(|have| have.same_release(v)))
            })
            .map(|v| v.to_string())
            .collect();
        if missing.is_empty() {
            let text = format!("the image has {} {}", tool.name, versions.join(", "));
            return self.find(Finding::ok(tool.key, text));
        }
        self.find(Finding::warning(
            tool.key,
            format!("the host has {0} {1}; the image has {0} {2}", tool.name, missing.join(", "), versions.join(", ")),
            format!(
                "content that insists on another {} fails its rebuild (\"no compatible Local environment\"): use an image with these versions, or tell its owners",
                tool.name
            ),
        ));
    }

    /// URLs of binary package repositories name the distribution: `…/__linux__/jammy/latest`.
    pub(super) fn repositories(&mut self) -> Result<(), SetError> {
        const MARK: &str = "/__linux__/";
        let found: Vec<(String, Option<String>, String, String)> = self
            .derived
            .gcfg
            .settings()
            .filter(|s| s.value.is_some_and(|v| v.contains(MARK)))
            .filter_map(|s| {
                Some((s.section.into(), s.subsection.map(Into::into), s.key.into(), s.value?.into()))
            })
            .collect();
        let mut unknown = Vec::new();
        for (section, sub, key, value) in found {
            let Some((before, rest)) = value.split_once(MARK) else { continue };
            let (name, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let setting = name_of(&section, sub.as_deref(), &key);
            match self.rules.image.as_ref().and_then(|image| image.codename.clone()) {
                Some(codename) if codename == name => {}
                Some(codename) => {
                    let new = format!("{before}{MARK}{codename}{tail}");
                    self.derived.gcfg.set(&section, sub.as_deref(), &key, &new)?;
                    let why = format!("packages built for {name} do not run on the image's {codename}");
                    self.note(setting, &key, Some(&value), Some(&new), &why);
                }
                None => unknown.push(format!("{setting} ({name})")),
            }
        }
        if !unknown.is_empty() && self.rules.image.is_some() {
            self.find(Finding::warning(
                "repository-os",
                format!(
                    "{} asks for packages built for one distribution, and the image does not tell its own",
                    unknown.join(", ")
                ),
                "make sure that it is the image's distribution, or packages of rebuilt content will not load",
            ));
        }
        Ok(())
    }
}

/// The version in a path such as `/opt/R/4.3.1/bin/R`.
fn version_in(path: &str) -> Option<Version> {
    Path::new(path).components().find_map(|part| Version::parse(part.as_os_str().to_str()?).ok())
}
