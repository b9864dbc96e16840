//! Which content of this server will not find its interpreter in the image: told before anything is touched.

use crate::world::Subject;
use connect_migrator_connect::api::{Api, ApiError};
use connect_migrator_connect::container::ImageFacts;
use connect_migrator_connect::installation::Installation;
use connect_migrator_images::contents::{Matchings, Needs};
use connect_migrator_sdk::{Context, Finding};

/// Compares what content was deployed with and what the image has. Nothing without a key, or when the image does not tell.
pub async fn interpreters(
    subject: &Subject<'_>,
    cx: &Context,
    installation: &Installation,
    facts: &ImageFacts,
    image: &str,
) -> Option<Finding> {
    let silent = facts.r.is_empty() && facts.python.is_empty() && facts.quarto.is_empty();
    if silent && !facts.minimal {
        return None;
    }
    let key = cx.secret(subject.source.api_key.as_ref()?).ok()?;
    let url = installation.local_url();
    let mut needs = Needs::new(facts.clone(), Matchings::of(&installation.gcfg));
    let listed = match Api::new(&url, Some(key)) {
        Ok(api) => {
            api.each_content(|item| {
                needs.look(&item);
                Ok::<(), ApiError>(())
            })
            .await
        }
        Err(error) => Err(error),
    };
    Some(match listed {
        Ok(()) => needs.finding(image),
        Err(error) => Finding::warning(
            "content-interpreters",
            format!("which content will not find its interpreter cannot be told: {error}"),
            "see that Connect runs and that the key is an administrator's",
        ),
    })
}
