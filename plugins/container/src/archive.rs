//! An image out of a file: looked at before anything is touched, loaded during prepare.

use crate::engine::{Engine, EngineError, Pulled};
use crate::image;
use crate::settings::ArchiveImage;
use crate::undo::Undo;
use bollard::models::ImageInspect;
use connect_migrator_connect::container::ImageFacts;
use connect_migrator_connect::version::Version;
use connect_migrator_images::archive::{ArchiveError, ArchivedImage, inspect};
use connect_migrator_images::registry::platform;
use connect_migrator_sdk::{Context, Finding, Progress, Span, StepError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Reads the file to its end and compares its digests.
///
/// # Errors
/// A blocker: not readable, damaged, another image, or one for another platform.
pub async fn look(file: &ArchiveImage) -> Result<ArchivedImage, Box<Finding>> {
    let (path, digest) = (file.archive.clone(), file.digest.clone());
    let read = tokio::task::spawn_blocking(move || inspect(&path, digest.as_deref())).await;
    let image = match read {
        Ok(Ok(image)) => image,
        Ok(Err(error)) => {
            let (key, remedy) = match &error {
                ArchiveError::Unreadable { .. } => {
                    ("archive-missing", "correct `archive`, and see that root can read the file")
                }
                ArchiveError::Malformed { .. } => {
                    ("archive-format", "write it with `docker save` (or `podman save`) of one image")
                }
                ArchiveError::Digest { .. } => (
                    "archive-digest",
                    "find out which of both is right before it is used; do not just change `digest`",
                ),
                ArchiveError::Damaged { .. } => ("archive-damaged", "copy the file again"),
            };
            return Err(Box::new(Finding::blocker(key, error.to_string(), remedy)));
        }
        Err(error) => {
            let text = format!("{} could not be read: {error}", file.archive.display());
            return Err(Box::new(Finding::blocker("archive-missing", text, "try again")));
        }
    };
    let here = platform();
    if image.platform != here {
        let text = format!(
            "the image in {} is for {}, and this machine is {here}",
            file.archive.display(),
            image.platform
        );
        return Err(Box::new(Finding::blocker("image-platform", text, "save an image for this platform")));
    }
    Ok(image)
}

fn label<'a>(image: &'a ArchivedImage, name: &str) -> Option<&'a str> {
    image.labels.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

/// What its labels tell about its inside.
#[must_use]
pub fn facts(image: &ArchivedImage) -> ImageFacts {
    ImageFacts::from_labels(|name| label(image, name))
}

/// The version that its labels tell, else its tag.
#[must_use]
pub fn version(image: &ArchivedImage) -> Option<Version> {
    let tag = image.tags.first().map(String::as_str).unwrap_or_default();
    image::version_by(|name| label(image, name), tag)
}

/// What changes when a file is replaced or written to: device, number, size, and when it was changed last.
fn identity(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.dev(), about.ino(), about.size(), about.ctime(), about.ctime_nsec()))
}

/// Loads the image unless the engine has it. Answers its id or tag, what the engine knows about it, and whether it was loaded.
///
/// # Errors
/// When it is not the image that it should be, or the engine cannot load it within `limit`.
pub async fn load(
    file: &ArchiveImage,
    limit: Span,
    cx: &Context,
    engine: &Engine,
) -> Result<(String, ImageInspect, bool), StepError> {
    let cannot = || StepError::new(format!("load the image in {}", file.archive.display()));
    let before = identity(&file.archive);
    let image =
        look(file).await.map_err(|blocker| cannot().because(&blocker.text).remedy(&blocker.remedy))?;
    // Some engines know an image by its manifest's digest and not by its id; then its tag leads to it.
    let names = || std::iter::once(&image.id).chain(&image.tags);
    for name in names() {
        let Some(about) = engine.image(name).await.map_err(EngineError::step)? else { continue };
        if about.id.as_deref() == Some(image.id.as_str()) {
            return Ok((name.clone(), about, false));
        }
    }
    cx.record_undo(&Undo::Image { reference: image.id.clone() })?;
    cx.info(format!("loading {}", file.archive.display()));
    let (doing, told) = (format!("loading {}", file.archive.display()), cx.clone());
    let tell = move |Pulled { done, total }: Pulled| {
        let unit = Some("bytes".into());
        told.progress(&Progress { doing: doing.clone(), done: Some(done), total: Some(total), unit });
    };
    tokio::select! {
        () = cx.cancelled() => return Err(StepError::cancelled(format!("load {}", file.archive.display()))),
        done = engine.load(&file.archive, limit.duration(), tell) => done.map_err(EngineError::step)?,
    }
    // What was looked at and what was loaded were read one after the other.
    if before.is_none() || identity(&file.archive) != before {
        return Err(cannot()
            .because("the file was replaced or written to while it was read")
            .remedy("see that nothing copies to it any more, and start again"));
    }
    for name in names() {
        if let Some(about) = engine.image(name).await.map_err(EngineError::step)? {
            return Ok((name.clone(), about, true));
        }
    }
    Err(cannot()
        .because(format!("{} says that it did, but does not have it", engine.kind))
        .remedy(engine.kind.journal()))
}
