//! Why a call of the server API failed.

/// A failed call: what was asked of which address, and what came back. Never holds the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The address is not one of a web server.
    #[error("`{url}` is not the address of a server: {why}; give it as http://host:port or https://host")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The key cannot stand in a header.
    #[error(
        "the API key holds characters that cannot be sent; store it again, in one line and without quotes"
    )]
    Key,
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up: {why}")]
    Client {
        /// The cause.
        why: String,
    },
    /// No answer.
    #[error("{call} got no answer: {why}")]
    Unreachable {
        /// Method and address.
        call: String,
        /// The cause.
        why: String,
        /// There was a connection, but the answer did not come in time.
        timed_out: bool,
    },
    /// The server answered with an error.
    #[error("{call} answered {status}{}", said(text))]
    Refused {
        /// Method and address.
        call: String,
        /// The HTTP status.
        status: u16,
        /// The `error` text of the answer; empty when there is none.
        text: String,
    },
    /// The server, or what stands before it, does not know the address at all (404 without a JSON body).
    #[error(
        "{call} is not known to the server: its version has no such call, or another program answers there"
    )]
    NoEndpoint {
        /// Method and address.
        call: String,
    },
    /// The server sends the client somewhere else, which is not followed: the key would go there too.
    #[error("{call} answered {status} and points to {to}; give that server's own address instead")]
    Redirected {
        /// Method and address.
        call: String,
        /// The HTTP status.
        status: u16,
        /// The `Location` of the answer.
        to: String,
    },
    /// The answer is not what this call answers.
    #[error("{call} answered something unexpected: {why}")]
    Shape {
        /// Method and address.
        call: String,
        /// What does not fit.
        why: String,
    },
    /// The answer is larger than this call's answers can be.
    #[error("{call} answered more than {limit_bytes} bytes")]
    TooLarge {
        /// Method and address.
        call: String,
        /// What is accepted.
        limit_bytes: usize,
    },
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl ApiError {
    /// The HTTP status, if there was an answer with an error status.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            ApiError::Refused { status, .. } | ApiError::Redirected { status, .. } => Some(*status),
            ApiError::NoEndpoint { .. } => Some(404),
            _ => None,
        }
    }

    /// The server's own words; empty when it said nothing.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            ApiError::Refused { text, .. } => text,
            _ => "",
        }
    }

    /// Whether the server is away for now (no answer, or a gateway that says so), so that asking again later makes sense.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            ApiError::Unreachable { .. } => true,
            ApiError::Refused { status, .. } => matches!(status, 429 | 502..=504),
            _ => false,
        }
    }
}
