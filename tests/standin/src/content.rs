//! Content items: rows of the database, and what they need to run.

use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::runtimes::{Language, Version};
use crate::store::{Row, Store, Value};

/// A content item.
#[derive(Debug, Clone)]
pub struct Content {
    /// Small number, the name of its directories.
    pub id: i64,
    /// Its name in URLs.
    pub guid: String,
    /// Unique name.
    pub name: String,
    /// Shown title.
    pub title: String,
    /// Free text.
    pub description: String,
    /// `shiny`, `static`, `python-dash`, ...
    pub app_mode: String,
    /// `pin`, `plot`, `site` or empty.
    pub category: String,
    /// The active bundle; `None`: never published.
    pub bundle_id: Option<String>,
    /// R that it was deployed with.
    pub r_version: Option<String>,
    /// Python that it was deployed with.
    pub py_version: Option<String>,
    /// Quarto that it was deployed with.
    pub quarto_version: Option<String>,
    /// Its owner.
    pub owner_guid: String,
    /// RFC 3339.
    pub created_time: String,
    /// RFC 3339.
    pub last_deployed_time: String,
}

const COLUMNS: &str = "id, guid, name, title, description, app_mode, content_category, bundle_id, r_version, \
                       py_version, quarto_version, owner_guid, created_time, last_deployed_time";

impl Content {
    fn from_row(row: &Row) -> Self {
        Content {
            id: row.int(0),
            guid: row.text(1),
            name: row.text(2),
            title: row.text(3),
            description: row.text(4),
            app_mode: row.text(5),
            category: row.text(6),
            bundle_id: row.opt_text(7),
            r_version: row.opt_text(8),
            py_version: row.opt_text(9),
            quarto_version: row.opt_text(10),
            owner_guid: row.text(11),
            created_time: row.text(12),
            last_deployed_time: row.text(13),
        }
    }

    /// All items, or those of one owner, by id.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(store: &Store, owner: Option<&str>) -> Result<Vec<Self>, Failure> {
        let rows = match owner {
            None => store.query(&format!("SELECT {COLUMNS} FROM content ORDER BY id"), &[]).await?,
            Some(guid) => {
                let sql = format!("SELECT {COLUMNS} FROM content WHERE owner_guid = $1 ORDER BY id");
                store.query(&sql, &[guid.into()]).await?
            }
        };
        Ok(rows.iter().map(Self::from_row).collect())
    }

    /// One item.
    ///
    /// # Errors
    /// The database's.
    pub async fn find(store: &Store, guid: &str) -> Result<Option<Self>, Failure> {
        let sql = format!("SELECT {COLUMNS} FROM content WHERE guid = $1");
        Ok(store.query(&sql, &[guid.into()]).await?.first().map(Self::from_row))
    }

    /// Adds the item; `false` if it is there.
    ///
    /// # Errors
    /// The database's.
    pub async fn insert(&self, store: &Store) -> Result<bool, Failure> {
        let text = |t: &String| Value::from(t.as_str());
        store
            .insert(
                "content",
                &[
                    self.id.into(),
                    text(&self.guid),
                    text(&self.name),
                    text(&self.title),
                    text(&self.description),
                    text(&self.app_mode),
                    text(&self.category),
                    self.bundle_id.clone().into(),
                    self.r_version.clone().into(),
                    self.py_version.clone().into(),
                    self.quarto_version.clone().into(),
                    text(&self.owner_guid),
                    text(&self.created_time),
                    text(&self.last_deployed_time),
                ],
            )
            .await
    }

    /// The runtimes with a cache that it needs, as deployed.
    #[must_use]
    pub fn needs(&self) -> Vec<(Language, Version)> {
        let need = |language, text: &Option<String>| Some((language, Version::parse(text.as_deref()?)?));
        need(Language::R, &self.r_version)
            .into_iter()
            .chain(need(Language::Python, &self.py_version))
            .collect()
    }

    /// Whether it talks to browsers over a websocket.
    #[must_use]
    pub fn has_websocket(&self) -> bool {
        self.app_mode.contains("shiny") || self.app_mode == "python-streamlit"
    }

    /// The shape of the product's content API, version 1.
    #[must_use]
    pub fn to_json(&self, address: &str) -> Json {
        let unset = Json::Null;
        json!({
            "guid": self.guid,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "access_type": "all",
            "locked": false,
            "locked_message": "",
            "connection_timeout": unset,
            "read_timeout": unset,
            "init_timeout": unset,
            "idle_timeout": unset,
            "max_processes": unset,
            "min_processes": unset,
            "max_conns_per_process": unset,
            "load_factor": unset,
            "cpu_request": unset,
            "cpu_limit": unset,
            "memory_request": unset,
            "memory_limit": unset,
            "created_time": self.created_time,
            "last_deployed_time": self.last_deployed_time,
            "bundle_id": self.bundle_id,
            "app_mode": self.app_mode,
            "content_category": self.category,
            "parameterized": false,
            "cluster_name": if self.bundle_id.is_some() { json!("Local") } else { unset.clone() },
            "image_name": if self.bundle_id.is_some() { json!("Local") } else { unset.clone() },
            "r_version": self.r_version,
            "py_version": self.py_version,
            "quarto_version": self.quarto_version,
            "r_environment_management": self.r_version.as_ref().map(|_| true),
            "py_environment_management": self.py_version.as_ref().map(|_| true),
            "run_as": unset,
            "run_as_current_user": false,
            "owner_guid": self.owner_guid,
            "content_url": format!("{address}/content/{}/", self.guid),
            "dashboard_url": format!("{address}/connect/#/apps/{}", self.guid),
            "app_role": "owner",
            "id": self.id.to_string(),
        })
    }
}
