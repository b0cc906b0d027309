//! Reports on change: what decided calls, and what control published.

use crate::views::frame::Frame;

/// Rights and configurations that were seen at work and that nobody published.
///
/// `bundle_never_published`: an entry names a bundle by a hash that control published for nobody;
/// `bundle_of_another_workload`: for somebody else; `bundle_version_differs`: for this workload, under
/// another version than the entry says. `config_changed_while_running`, `build_changed_while_running`:
/// one process, which reads its configuration when it starts, wrote entries under two; the row is the
/// later one.
///
/// Whether a configuration or a build had been approved cannot be told: no table holds such approvals.
/// Nor is a bundle missed that was published and never used.
pub(super) fn e08(frame: &Frame) -> String {
    E08.replace("%window%", &frame.holds("start_time"))
}

const E08: &str = "
WITH seen AS (
  SELECT writer, epoch, bundle_sha256, bundle_version, config_sha256, build,
    min(start_time) AS first_seen, max(start_time) AS last_seen, count(*) AS entries
  FROM raw.entries WHERE attribution = 'native' AND %window%
  GROUP BY writer, epoch, bundle_sha256, bundle_version, config_sha256, build
), spelled AS (
  SELECT writer, split_part(writer, '#', 1) AS audience, epoch,
    as_text(bundle_sha256) AS bundle_sha256, bundle_version, as_text(config_sha256) AS config_sha256,
    build, first_seen, last_seen, entries
  FROM seen
), begun AS (
  SELECT *,
    first_value(config_sha256) OVER (PARTITION BY writer, epoch ORDER BY first_seen, config_sha256)
      AS first_config,
    first_value(build) OVER (PARTITION BY writer, epoch ORDER BY first_seen, build) AS first_build
  FROM spelled
), published AS (
  SELECT audience, as_text(sha256) AS sha256, min(rights_version) AS low, max(rights_version) AS high
  FROM raw.bundles GROUP BY audience, as_text(sha256)
), somewhere AS (
  SELECT DISTINCT as_text(sha256) AS sha256 FROM raw.bundles
), judged AS (
  SELECT b.*, p.low AS published_version, unnest(make_array(
    CASE WHEN b.bundle_sha256 IS NOT NULL AND p.sha256 IS NULL THEN
      CASE WHEN s.sha256 IS NULL THEN 'bundle_never_published' ELSE 'bundle_of_another_workload' END END,
    CASE WHEN b.bundle_version < p.low OR b.bundle_version > p.high THEN 'bundle_version_differs' END,
    CASE WHEN b.config_sha256 <> b.first_config THEN 'config_changed_while_running' END,
    CASE WHEN b.build <> b.first_build THEN 'build_changed_while_running' END
  )) AS finding
  FROM begun b
  LEFT JOIN published p ON b.audience = p.audience AND b.bundle_sha256 = p.sha256
  LEFT JOIN somewhere s ON b.bundle_sha256 = s.sha256
)
SELECT finding, audience AS workload, writer, epoch, bundle_sha256, bundle_version, published_version,
  config_sha256, build, first_seen, last_seen, entries
FROM judged WHERE finding IS NOT NULL";
