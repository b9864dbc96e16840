//! What an image's labels tell before it is pulled: read in its registry, not through the engine, which does not hand them out.

use crate::check_engine::Seen;
use crate::image;
use crate::inside;
use crate::reference;
use connect_migrator_connect::container::ImageFacts;
use connect_migrator_images::registry::RemoteImage;

/// An image whose labels its registry tells.
#[must_use]
pub(crate) fn seen(image: &RemoteImage) -> Seen {
    let label = label(image);
    Seen {
        silent: inside::is_silent(&label),
        told: image::version_by(&label, &image.reference),
        text: format!("the registry has {} for {} ({})", image.reference, image.platform, image.pinned),
        facts: Some(ImageFacts::from_labels(&label)),
        reference: image.reference.clone(),
    }
}

/// An image of which only the engine knows that it is there.
#[must_use]
pub(crate) fn unseen(reference: String, digest: &str) -> Seen {
    Seen {
        silent: true,
        told: reference::version_in_tag(&reference),
        text: format!("the registry has {reference} ({digest})"),
        facts: None,
        reference,
    }
}

fn label<'i>(image: &'i RemoteImage) -> impl Fn(&str) -> Option<&'i str> {
    move |name| image.labels.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

/// What its labels tell about its inside.
#[must_use]
pub(crate) fn facts(image: &RemoteImage) -> ImageFacts {
    ImageFacts::from_labels(label(image))
}
