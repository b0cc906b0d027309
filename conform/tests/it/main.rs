//! Every check against the real proxy, which it passes, and against a broken stand-in, which it
//! does not.

#[cfg(test)]
mod collector;
#[cfg(test)]
mod flaws;
#[cfg(test)]
mod own;
#[cfg(test)]
mod profiles;
#[cfg(test)]
mod stand_in;
