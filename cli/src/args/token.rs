//! Options of `token`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options of `token`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil token payments --config bank/config/proxy-shop.toml\n  \
                  counterfoil token payments --config bank/config/proxy-shop.toml --operation listPayments -o json\n  \
                  curl -H \"Authorization: Bearer $(counterfoil token payments --config bank/config/proxy-shop.toml)\" \\\n      \
                  -H 'Host: payments' http://127.0.0.1:16011/payments\n\n\
                  The token is bound to the workload's certificate (RFC 8705): shown over another one it is refused. Proxies fetch \
                  theirs by themselves.\n\n\
                  Exit codes: 0 printed, 1 refused or failed, 2 wrong use, 64 the configuration cannot be used"
)]
pub(crate) struct TokenArgs {
    /// Name of the API that is to be called
    pub(crate) api: String,
    /// Configuration of the workload's proxy, whose SVID asks
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Operation that the token shall name; may be given several times [default: all that are granted]
    #[arg(long = "operation", value_name = "OPERATION")]
    pub(crate) operations: Vec<String>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = TokenOutput::Text)]
    pub(crate) output: TokenOutput,
}

/// How `token` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenOutput {
    /// The token alone
    Text,
    /// As control answers (RFC 6749 5.1)
    Json,
}
