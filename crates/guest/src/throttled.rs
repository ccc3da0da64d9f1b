//! Standing still: how guests have the share of their time that a throttle leaves them.

use std::time::Duration;

use whimbrel_engine::guest::Throttle;

/// A guest never stands longer than this at once, even if it worked for too long before.
pub(crate) const STAND_MAX: Duration = Duration::from_millis(20);

/// How long it stands still after it `worked`.
pub(crate) fn stand(throttle: Throttle, worked: Duration) -> Duration {
    let percent = u32::from(throttle.as_percent());
    (worked * percent / (100 - percent)).min(STAND_MAX)
}
