//! How large an estate is.

/// Counts of an estate. All but the grants are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// What runs and has an identity.
    pub workloads: usize,
    /// What is owned and has an API.
    pub applications: usize,
    /// Who owns.
    pub teams: usize,
    /// APIs that a workload calls, on average; each is one grant.
    pub dependencies: usize,
}

impl Size {
    /// A large bank.
    pub const BANK: Self = Self {
        workloads: 1_700,
        applications: 2_200,
        teams: 850,
        dependencies: 6,
    };

    /// A bank of so many workloads, everything else in proportion.
    #[must_use]
    pub fn of_workloads(workloads: usize) -> Self {
        let workloads = workloads.max(1);
        let share = |of: usize| (workloads * of / Self::BANK.workloads).max(1);
        Self {
            workloads,
            applications: share(Self::BANK.applications),
            teams: share(Self::BANK.teams),
            dependencies: Self::BANK.dependencies,
        }
    }
}
