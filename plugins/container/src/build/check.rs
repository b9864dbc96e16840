//! What is said about a build before anything is done.

use crate::build::context;
use crate::build::recipe::{Recipe, resolve};
use crate::build::settings::BuildImage;
use crate::world::Subject;
use connect_migrator_connect::version::Version;
use connect_migrator_images::registry::platform;
use connect_migrator_sdk::Finding;
use std::path::Path;

/// What a standard image takes on disk while it is built, with its layers: less is worth a warning.
const ROOM_MIB: u64 = 10 * 1024;
/// Where engines keep their images.
const STORES: [&str; 3] = ["/var/lib/docker", "/var/lib/containers", "/var/lib"];

/// Looks whether it could be built; notes findings. `None` when it could not.
pub(crate) async fn look(
    subject: &Subject<'_>,
    build: &BuildImage,
    source: Option<Version>,
    found: &mut Vec<Finding>,
) -> Option<Recipe> {
    let recipe = match resolve(build, source, &platform()) {
        Ok(recipe) => recipe,
        Err(blocker) => {
            found.push(*blocker);
            return None;
        }
    };
    let most = subject.settings.build_context_max_mib.saturating_mul(1024 * 1024);
    let looked = recipe.clone();
    let survey = tokio::task::spawn_blocking(move || context::survey(&looked, most)).await;
    let survey = match survey {
        Ok(Ok(survey)) => survey,
        Ok(Err(why)) => {
            found.push(Finding::blocker(
                "build-context",
                why,
                "see that root can read this folder, and that it holds only what the build needs",
            ));
            return None;
        }
        Err(error) => {
            found.push(Finding::blocker("build-context", error.to_string(), "try again"));
            return None;
        }
    };
    let from = if recipe.bases.is_empty() {
        String::new()
    } else {
        format!(", beginning from {}", recipe.bases.join(" and "))
    };
    let ignored =
        survey.ignored_by.as_ref().map(|path| format!(", without what {} leaves out", path.display()));
    found.push(Finding::ok(
        "image",
        format!(
            "will be built: {} ({} entries, {} KiB{}){from}",
            recipe.what,
            survey.entries.len(),
            survey.bytes.div_ceil(1024),
            ignored.unwrap_or_default()
        ),
    ));
    found.extend(room());
    if !recipe.secrets.is_empty() {
        found.push(Finding::warning(
            "build-secrets",
            format!(
                "the bakery file names secrets for this build, which it does not get: {}",
                recipe.secrets.join(", ")
            ),
            "if the build cannot do without, build the image yourself and name it with `image`",
        ));
    }
    Some(recipe)
}

fn room() -> Option<Finding> {
    let store = STORES.iter().map(Path::new).find(|path| path.is_dir())?;
    let about = nix::sys::statvfs::statvfs(store).ok()?;
    let free = about.blocks_available() * about.fragment_size() / (1024 * 1024);
    let text = format!("{} has {free} MiB free", store.display());
    Some(if free < ROOM_MIB {
        Finding::warning(
            "build-room",
            format!("{text}; building a standard image takes some {ROOM_MIB} MiB"),
            "make room there, or see that this image is smaller",
        )
    } else {
        Finding::ok("build-room", text)
    })
}
