//! The tables. All columns are TEXT or BIGINT, so that copying from one database to another is plain.

/// A table: its name and columns as `name TYPE constraints`.
#[derive(Debug)]
pub struct Table {
    /// The table's name.
    pub name: &'static str,
    columns: &'static [&'static str],
    /// Whether `migrate` copies it. Rows of running copies stay behind.
    pub migrated: bool,
}

/// Every table, in the order in which `migrate` copies them.
pub const TABLES: &[Table] = &[
    Table { name: "settings", columns: &["name TEXT PRIMARY KEY", "value TEXT NOT NULL"], migrated: true },
    Table {
        name: "users",
        columns: &[
            "guid TEXT PRIMARY KEY",
            "username TEXT NOT NULL",
            "email TEXT NOT NULL",
            "first_name TEXT NOT NULL",
            "last_name TEXT NOT NULL",
            "user_role TEXT NOT NULL",
            "created_time TEXT NOT NULL",
            "updated_time TEXT NOT NULL",
            "active_time TEXT",
            "confirmed BIGINT NOT NULL",
            "locked BIGINT NOT NULL",
        ],
        migrated: true,
    },
    Table {
        name: "api_keys",
        columns: &[
            "hash TEXT PRIMARY KEY",
            "user_guid TEXT NOT NULL",
            "name TEXT NOT NULL",
            "created_time TEXT NOT NULL",
            "expires_unix BIGINT",
        ],
        migrated: true,
    },
    Table {
        name: "content",
        columns: &[
            "id BIGINT PRIMARY KEY",
            "guid TEXT NOT NULL UNIQUE",
            "name TEXT NOT NULL",
            "title TEXT NOT NULL",
            "description TEXT NOT NULL",
            "app_mode TEXT NOT NULL",
            "content_category TEXT NOT NULL",
            "bundle_id TEXT",
            "r_version TEXT",
            "py_version TEXT",
            "quarto_version TEXT",
            "owner_guid TEXT NOT NULL",
            "created_time TEXT NOT NULL",
            "last_deployed_time TEXT NOT NULL",
        ],
        migrated: true,
    },
    Table {
        name: "bundles",
        columns: &[
            "id TEXT PRIMARY KEY",
            "content_guid TEXT NOT NULL",
            "sha256 TEXT NOT NULL",
            "size BIGINT NOT NULL",
            "created_time TEXT NOT NULL",
        ],
        migrated: true,
    },
    Table {
        name: "tasks",
        columns: &[
            "id TEXT PRIMARY KEY",
            "finished_time TEXT NOT NULL",
            "output TEXT NOT NULL",
            "code BIGINT NOT NULL",
            "error TEXT NOT NULL",
            "result TEXT",
        ],
        migrated: true,
    },
    Table {
        name: "audit",
        columns: &[
            "id TEXT PRIMARY KEY",
            "time TEXT NOT NULL",
            "user_guid TEXT NOT NULL",
            "action TEXT NOT NULL",
            "detail TEXT NOT NULL",
        ],
        migrated: true,
    },
    Table {
        name: "violations",
        columns: &[
            "id TEXT PRIMARY KEY",
            "time TEXT NOT NULL",
            "place TEXT NOT NULL",
            "this_copy TEXT NOT NULL",
            "other_copy TEXT NOT NULL",
        ],
        migrated: true,
    },
    Table {
        name: "live_instances",
        columns: &[
            "id TEXT PRIMARY KEY",
            "copy TEXT NOT NULL",
            "beat BIGINT NOT NULL",
            "beat_time TEXT NOT NULL",
        ],
        migrated: false,
    },
];

/// The table of the instrumentation database: who looked at what, when.
pub const VISITS: Table = Table {
    name: "visits",
    columns: &[
        "id BIGINT PRIMARY KEY",
        "content_guid TEXT NOT NULL",
        "user_guid TEXT",
        "started TEXT NOT NULL",
        "path TEXT",
    ],
    migrated: true,
};

impl Table {
    pub(crate) fn create(&self) -> String {
        format!("CREATE TABLE IF NOT EXISTS {} ({})", self.name, self.columns.join(", "))
    }

    /// The names of the columns, comma between.
    #[must_use]
    pub fn column_names(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|c| c.split(' ').next().unwrap_or(c)).collect();
        names.join(", ")
    }

    pub(crate) fn insert(&self) -> String {
        let places: Vec<_> = (1..=self.columns.len()).map(|n| format!("${n}")).collect();
        format!(
            "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING",
            self.name,
            self.column_names(),
            places.join(", ")
        )
    }
}
