//! What an image's labels tell before it is pulled: read in its registry, not through the engine, which does not hand them out.

use crate::check_engine::Seen;
use crate::engine::Engine;
use crate::image::{self, Found};
use crate::inside;
use crate::login::Logins;
use crate::reference;
use crate::settings::Image;
use crate::world::Subject;
use connect_migrator_connect::container::ImageFacts;
use connect_migrator_connect::version::Version;
use connect_migrator_images::registry::{Registries, RegistryError, RemoteImage, platform};
use connect_migrator_images::search;
use connect_migrator_sdk::Finding;

/// Finds the image in a registry. Notes what is in the way; `None` when it cannot be had.
pub(crate) async fn remote(
    subject: &Subject<'_>,
    engine: &Engine,
    source: Option<Version>,
    logins: &Logins,
    candidates: &[String],
    found: &mut Vec<Finding>,
) -> Option<Seen> {
    let login_for = |repository: &str| logins.of_repository(repository);
    let mut down = None;
    if let Image::Chosen(chosen) = &subject.settings.image
        && let Some(wanted) = reference::wanted(chosen, source)
        && let Ok(registries) = Registries::new(&platform())
    {
        match search::by_version(&registries, &wanted, &login_for).await {
            Ok(image) => {
                found.extend(image.faults.first().map(|fault| {
                    Finding::warning(
                        fault.key(),
                        format!("{fault}; another registry has the image"),
                        fault.remedy(),
                    )
                }));
                return Some(seen(&image.image));
            }
            // The engine may have a way (a proxy, a certificate) that we do not have.
            Err(not_found) if not_found.tried.iter().any(|e| matches!(e, RegistryError::Down { .. })) => {
                down = Some(not_found);
            }
            Err(not_found) => {
                found.push(not_found.finding());
                return None;
            }
        }
    }
    match image::find(engine, candidates, logins).await {
        Ok(Found::Remote { reference, digest }) => {
            let labels = match Registries::new(&platform()) {
                Ok(registries) => {
                    let login = login_for(reference::split(&reference).0);
                    registries.find(&reference, login.as_ref()).await.ok()
                }
                Err(_) => None,
            };
            Some(labels.as_ref().map_or_else(
                || Seen {
                    silent: true,
                    told: reference::version_in_tag(&reference),
                    text: format!("the registry has {reference} ({digest})"),
                    facts: None,
                    reference: reference.clone(),
                },
                seen,
            ))
        }
        Ok(Found::Local { reference, about }) => Some(Seen {
            silent: false,
            told: image::version(&about, &reference),
            text: format!("{reference} is on this host"),
            facts: Some(image::facts(&about)),
            reference,
        }),
        // The engine has no way either.
        Err(_) if down.is_some() => {
            found.extend(down.map(|not_found| not_found.finding()));
            None
        }
        Err(not_found) => {
            found.push(Finding::blocker(
                "image-missing",
                format!("the image cannot be had: {}", not_found.why()),
                not_found.remedy(engine.kind),
            ));
            None
        }
    }
}

fn seen(image: &RemoteImage) -> Seen {
    let label = |name: &str| image.labels.get(name).map(String::as_str).filter(|text| !text.is_empty());
    Seen {
        silent: inside::is_silent(label),
        told: image::version_by(label, &image.reference),
        text: format!("the registry has {} for {} ({})", image.reference, image.platform, image.pinned),
        facts: Some(ImageFacts::from_labels(label)),
        reference: image.reference.clone(),
    }
}
