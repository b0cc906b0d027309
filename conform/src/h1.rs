//! HTTP/1.1 to the byte: what a check writes on a TLS connection, and what came back.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout};

/// How long a further answer may come after the last.
const IDLE: Duration = Duration::from_secs(1);

/// Everything that came back on one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) bytes: Vec<u8>,
    /// Whether the target closed the connection.
    pub(crate) closed: bool,
    /// The local port, by which the books name a caller whose handshake failed.
    pub(crate) port: u16,
}

impl Said {
    /// Reads until the other side closes, has answered and says nothing more for a while, or
    /// `limit` is over.
    pub(crate) async fn read(
        stream: &mut (impl AsyncRead + Unpin),
        port: u16,
        limit: Duration,
    ) -> Self {
        let mut said = Self {
            port,
            ..Self::default()
        };
        let until = Instant::now() + limit;
        let mut some = [0; 4_096];
        loop {
            let mut wait = until.saturating_duration_since(Instant::now());
            if said.status().is_some() {
                wait = wait.min(IDLE);
            }
            match timeout(wait, stream.read(&mut some)).await {
                Ok(Ok(count @ 1..)) => said.bytes.extend(some.iter().take(count)),
                // an alert or a reset ends a connection as well as a close does
                Ok(Ok(0) | Err(_)) => {
                    said.closed = true;
                    return said;
                }
                Err(_elapsed) => return said,
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The status of the first answer that is final.
    pub(crate) fn status(&self) -> Option<u16> {
        statuses(&self.text())
            .into_iter()
            .find(|status| *status >= 200)
    }

    /// The first answer's `x-counterfoil-reason`, where the target is one that gives it.
    pub(crate) fn reason(&self) -> Option<String> {
        let text = self.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("x-counterfoil-reason: "))?;
        Some(line.trim().to_owned())
    }

    /// In few words.
    pub(crate) fn words(&self) -> String {
        match (self.status(), self.reason()) {
            (Some(status), Some(reason)) => format!("{status} {reason}"),
            (Some(status), None) => status.to_string(),
            (None, _) if self.closed => "closed without an answer".to_owned(),
            (None, _) => "no answer".to_owned(),
        }
    }

    /// Whether an answer says that the request was served.
    pub(crate) fn is_served(&self) -> bool {
        let all = statuses(&self.text());
        all.iter().any(|status| (200..400).contains(status))
    }
}

/// The statuses of the answers in `text`.
fn statuses(text: &str) -> Vec<u16> {
    let parts = text.split("HTTP/1.").skip(1);
    parts
        .filter_map(|part| part.get(2..5)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let said = |text: &str| Said {
            bytes: text.as_bytes().to_vec(),
            closed: true,
            port: 0,
        };
        let two = said(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nx-counterfoil-reason: grant_none\r\n\r\n",
        );
        assert_eq!(two.status(), Some(403));
        assert_eq!(two.words(), "403 grant_none");
        assert!(!two.is_served());
        assert!(said("HTTP/1.1 400 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n").is_served());
        assert_eq!(said("").words(), "closed without an answer");
    }
}
