//! `connect-migrator plugins`.

use super::{Exit, tables};
use crate::host::{self, ChildLauncher, PluginRef};
use crate::instance::{Instance, Plugins};
use crate::runbook::can_be_used;
use connect_migrator_sdk::{PluginDescription, Role, StepInfo};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

/// How far the settings of a step are shown that lie within others, in columns of two spaces. A schema may contain itself.
const DEPTH_MAX: usize = 10;

/// What is asked about plugins.
#[derive(Debug, clap::Subcommand)]
pub(super) enum PluginsCommand {
    /// What is installed, and whether it would be loaded. Runs none of it
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Load each one in a process of its own, and see that it fits this version
    Verify {
        /// Only this one
        plugin: Option<String>,
    },
    /// Show a step's settings, each with its meaning, and an example
    Show {
        /// `plugin` or `plugin/step`
        #[arg(value_name = "PLUGIN[/STEP]")]
        step: String,
        /// Print the JSON Schema of the settings
        #[arg(long)]
        json: bool,
    },
}

/// One installed plugin, from its file alone.
#[derive(Debug, Serialize)]
struct Installed {
    name: String,
    /// Where its code is.
    file: String,
    /// The versions of the boundary for which it names an entry point.
    abi: Vec<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Why it would not be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// Carries it out.
pub(super) async fn run(instance: &Instance, command: &PluginsCommand) -> Exit {
    let plugins = Plugins::installed(&instance.plugin_dirs());
    match command {
        PluginsCommand::List { json } => list(&plugins, *json),
        PluginsCommand::Verify { plugin } => verify(&plugins, plugin.as_deref()).await,
        PluginsCommand::Show { step, json } => show(&plugins, step, *json).await,
    }
}

fn list(plugins: &Plugins, json: bool) -> Exit {
    let look = |(name, plugin): (&String, &PluginRef)| {
        let read = host::digest(plugin).and_then(|digest| Ok((digest, host::abi_named(plugin)?)));
        let (sha256, abi, refused) = match read {
            Ok((digest, abi)) => (digest, abi, None),
            Err(failure) => (None, Vec::new(), Some(failure.to_string())),
        };
        let file = match plugin {
            PluginRef::BuiltIn(_) => "built in".to_owned(),
            PluginRef::File(path) => path.display().to_string(),
        };
        Installed { name: name.clone(), file, abi, sha256, refused }
    };
    let installed: Vec<Installed> = plugins.0.iter().map(look).collect();
    let bad = installed.iter().any(|plugin| plugin.refused.is_some());
    if json {
        match serde_json::to_string_pretty(&installed) {
            Ok(text) => say_line!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        let mut table = tables::new(["PLUGIN", "ABI", "FILE", "SHA-256", ""]);
        for plugin in &installed {
            let digest = plugin.sha256.as_deref().and_then(|hex| hex.get(..12)).unwrap_or("-");
            let refused =
                plugin.refused.as_deref().map_or_else(String::new, |why| format!("NOT LOADED: {why}"));
            let abi: Vec<String> = plugin.abi.iter().map(u16::to_string).collect();
            let abi = if abi.is_empty() { "none".to_owned() } else { abi.join(", ") };
            table.add_row([plugin.name.clone(), abi, plugin.file.clone(), digest.to_owned(), refused]);
        }
        say_line!(
            "{table}\n\n`connect-migrator plugins verify` loads each in a process of its own, and shows its version and steps."
        );
    }
    if bad { Exit::Failed } else { Exit::Done }
}

async fn verify(plugins: &Plugins, only: Option<&str>) -> Exit {
    if let Some(name) = only
        && !plugins.0.contains_key(name)
    {
        return unknown(plugins, name);
    }
    let launcher = ChildLauncher::default();
    let mut exit = Exit::Done;
    let mut table = tables::new(["", "PLUGIN", "VERSION", "SDK", "STEPS, OR WHAT IS WRONG"]);
    for (name, plugin) in plugins.0.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let (sign, version, sdk, text) = match host::describe(&launcher, plugin).await {
            Ok(described) => match unusable(name, &described) {
                None => {
                    let steps: Vec<String> = described.steps.iter().map(|step| uses(name, step)).collect();
                    ("ok", described.version, described.sdk, steps.join(", "))
                }
                Some(why) => {
                    exit = Exit::Failed;
                    ("BROKEN", described.version, described.sdk, why)
                }
            },
            Err(failure) => {
                exit = Exit::Failed;
                ("BROKEN", "-".into(), "-".into(), failure.to_string())
            }
        };
        table.add_row([sign.to_owned(), name.clone(), version, sdk, tables::shown(&text)]);
    }
    say_line!("{table}");
    exit
}

/// Why a runbook could not use what a plugin says that it has.
fn unusable(name: &str, described: &PluginDescription) -> Option<String> {
    const NAMES: &str = "a runbook names plugins and steps by lowercase letters, digits and `-`";
    if !can_be_used(name) {
        return Some(format!("{NAMES}: give the file another name than `{name}`"));
    }
    described.steps.iter().find_map(|step| {
        if !can_be_used(&step.name) {
            return Some(format!("{NAMES}, and a step of it is called `{}`", step.name));
        }
        step.needs.as_ref().and_then(host::fault_of)
    })
}

async fn show(plugins: &Plugins, step: &str, json: bool) -> Exit {
    let (name, wanted) = step.split_once('/').map_or((step, None), |(name, step)| (name, Some(step)));
    let Some(plugin) = plugins.0.get(name) else { return unknown(plugins, name) };
    let described = match host::describe(&ChildLauncher::default(), plugin).await {
        Ok(described) => described,
        Err(failure) => return Exit::Failed.because(&failure),
    };
    let mut steps =
        described.steps.iter().filter(|step| wanted.is_none_or(|wanted| step.name == wanted)).peekable();
    if steps.peek().is_none() {
        let there: Vec<String> = described.steps.iter().map(|step| uses(name, step)).collect();
        return Exit::Failed
            .because(&format!("the plugin `{name}` has no step `{step}`; it has {}", there.join(", ")));
    }
    if json {
        let schemas: serde_json::Map<String, Value> =
            steps.map(|step| (uses(name, step), step.settings_schema.clone())).collect();
        match serde_json::to_string_pretty(&schemas) {
            Ok(text) => say_line!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        steps.for_each(|step| say!("{}", tables::shown(&told(&described, step))));
    }
    Exit::Done
}

fn unknown(plugins: &Plugins, name: &str) -> Exit {
    let names: Vec<&str> = plugins.0.keys().map(String::as_str).collect();
    let near = crate::runbook::nearest(name, names.iter().copied());
    let hint = near
        .map_or_else(|| format!("there are {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
    Exit::Failed.because(&format!("there is no plugin `{name}`; {hint}"))
}

fn uses(plugin: &str, step: &StepInfo) -> String {
    if step.name == plugin { plugin.to_owned() } else { format!("{plugin}/{}", step.name) }
}

/// What a step says about itself and its settings.
fn told(described: &PluginDescription, step: &StepInfo) -> String {
    let uses = uses(&described.plugin, step);
    let mut out = format!("{uses} ({} {})\n  {}\n", described.plugin, described.version, step.summary);
    let role = match step.role {
        Role::StopsSource => "It stops the source: the window opens with it.",
        Role::StartsTarget => "It starts the new server.",
        Role::Routes => "It sends users to the new server: the window closes with it.",
        Role::Other if step.needs_source_stopped => "It is applied right after the source is stopped.",
        Role::Other => "",
    };
    if !role.is_empty() {
        let _ = writeln!(out, "  {role}");
    }
    let mut settings = String::new();
    properties(&mut settings, &step.settings_schema, &step.settings_schema, 2);
    let _ = writeln!(out, "\n  Settings under `with`{}", if settings.is_empty() { ": none" } else { "" });
    out.push_str(&settings);
    let _ = writeln!(out, "\n  Example\n    [[step]]\n    id = \"{}\"\n    uses = \"{uses}\"", step.name);
    let required: Vec<String> = required(&step.settings_schema)
        .map(|name| {
            let of = step.settings_schema.pointer(&format!("/properties/{name}")).unwrap_or(&Value::Null);
            format!("{name} = {}", example(&step.settings_schema, of))
        })
        .collect();
    if !required.is_empty() {
        let _ = writeln!(out, "    with = {{ {} }}", required.join(", "));
    }
    out.push('\n');
    out
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Follows a `$ref` within the schema.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

fn properties(out: &mut String, root: &Value, schema: &Value, depth: usize) {
    let Some(all) = resolved(root, schema).get("properties").and_then(Value::as_object) else { return };
    let must: Vec<&str> = required(resolved(root, schema)).collect();
    for (name, of) in all {
        let pad = "  ".repeat(depth);
        let needed = if must.contains(&name.as_str()) { ", required" } else { "" };
        let _ = writeln!(out, "{pad}{name} ({}{needed})", kind(root, of));
        let text = of.get("description").or_else(|| resolved(root, of).get("description"));
        for line in text.and_then(Value::as_str).unwrap_or_default().lines() {
            let _ = writeln!(out, "{pad}    {line}");
        }
        if depth < DEPTH_MAX {
            tables_within(out, root, of, depth + 2);
        }
    }
}

/// The settings of each table that a setting may be, or may be a list of.
fn tables_within(out: &mut String, root: &Value, schema: &Value, depth: usize) {
    let within = branches(root, schema).into_iter().flat_map(|branch| match branch.of.get("items") {
        Some(items) => branches(root, items),
        None => vec![branch],
    });
    let tables: Vec<Branch<'_>> = within.filter(|branch| branch.of.get("properties").is_some()).collect();
    for (at, table) in tables.iter().enumerate() {
        if tables.len() > 1 {
            let or = if at == 0 { "either" } else { "or" };
            let _ = writeln!(
                out,
                "{}{or}: {}",
                "  ".repeat(depth),
                table.said.lines().next().unwrap_or_default()
            );
        }
        properties(out, root, table.of, depth);
    }
}

/// One of the alternatives that a schema offers.
struct Branch<'a> {
    of: &'a Value,
    /// What is said about it where it is offered.
    said: &'a str,
}

/// The schema itself, or the alternatives that it offers, and those that these offer.
fn branches<'a>(root: &'a Value, schema: &'a Value) -> Vec<Branch<'a>> {
    fn add<'a>(all: &mut Vec<Branch<'a>>, root: &'a Value, schema: &'a Value, outer: &'a str, left: usize) {
        let of = resolved(root, schema);
        let said = schema.get("description").or_else(|| of.get("description"));
        let said = said.and_then(Value::as_str).unwrap_or(outer);
        match of.get("anyOf").or_else(|| of.get("oneOf")).and_then(Value::as_array) {
            Some(several) if left > 0 => several.iter().for_each(|one| add(all, root, one, said, left - 1)),
            Some(_) => {}
            None if all.iter().any(|known| std::ptr::eq(known.of, of)) => {}
            None => all.push(Branch { of, said }),
        }
    }
    let mut all = Vec::new();
    add(&mut all, root, schema, "", DEPTH_MAX);
    all
}

/// What a value may be, in words.
fn kind(root: &Value, schema: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    for Branch { of: branch, .. } in branches(root, schema) {
        let constants =
            branch.get("enum").and_then(Value::as_array).into_iter().flatten().chain(branch.get("const"));
        let before = words.len();
        words.extend(constants.map(ToString::to_string));
        if words.len() > before {
            continue;
        }
        let types = match branch.get("type") {
            Some(Value::Array(all)) => all.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        words.extend(types.iter().filter_map(Value::as_str).filter(|word| *word != "null").map(|word| {
            match word {
                "object" => "table".to_owned(),
                "array" => "list".to_owned(),
                other => other.to_owned(),
            }
        }));
    }
    words.dedup();
    if words.is_empty() { "any".into() } else { words.join(" or ") }
}

/// A value of the right kind to begin with.
fn example(root: &Value, schema: &Value) -> String {
    match kind(root, schema).split(" or ").next().unwrap_or_default() {
        "integer" | "number" => "1".into(),
        "boolean" => "true".into(),
        "list" => "[]".into(),
        "table" => "{ … }".into(),
        text if text.starts_with('"') => text.to_owned(),
        _ => "\"…\"".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_within_alternatives_and_lists_are_shown() {
        let schema = json!({
            "properties": {
                "image": { "description": "Which.", "anyOf": [
                    { "type": "string" },
                    { "$ref": "#/$defs/Chosen", "description": "Chosen." },
                    { "$ref": "#/$defs/Built", "description": "Built." },
                ] },
                "mounts": { "description": "More.", "type": ["array", "null"], "items": { "$ref": "#/$defs/Mount" } },
                "names": { "description": "Words.", "type": "array", "items": { "type": "string" } },
            },
            "required": ["image"],
            "$defs": {
                "Chosen": { "type": "object", "properties": { "version": { "type": "string", "description": "Of it." } } },
                "Built": { "anyOf": [
                    { "type": "object", "properties": { "build": { "type": "string", "description": "What." } } },
                    { "$ref": "#/$defs/Built" },
                ] },
                "Mount": { "type": "object", "properties": { "source": { "type": "string", "description": "Where." } },
                    "required": ["source"] },
            },
        });
        let mut out = String::new();
        properties(&mut out, &schema, &schema, 0);
        let shown: Vec<&str> = out.lines().map(str::trim_start).collect();
        assert!(shown[0].starts_with("image (string or table"), "{out}");
        for line in ["either: Chosen.", "or: Built.", "version (string)", "build (string)", "mounts (list)"] {
            assert!(shown.contains(&line), "{line} is not in\n{out}");
        }
        assert!(shown.contains(&"source (string, required)") && shown.contains(&"names (list)"), "{out}");
    }
}
