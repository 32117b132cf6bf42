//! The codes that this crate itself reports, by name. All others are words of the crates that
//! report them; every one of them has its page in `explain`.

/// The manifest is missing, unreadable, too large or no UTF-8.
pub(crate) const UNREADABLE: &str = "E0201";
/// Not TOML.
pub(crate) const SYNTAX: &str = "E0202";
/// A key that no version knows.
pub(crate) const UNKNOWN_KEY: &str = "E0203";
/// A value of another type than the key takes.
pub(crate) const WRONG_TYPE: &str = "E0204";
/// A word that is none of those the key takes.
pub(crate) const WRONG_VALUE: &str = "E0205";
/// A key that must be there.
pub(crate) const MISSING_KEY: &str = "E0206";
/// Part of the plan, not of this version.
pub(crate) const NOT_CARRIED_OUT: &str = "E0207";
/// Not the name of an application, a function or a trigger.
pub(crate) const BAD_NAME: &str = "E0208";
/// Not the name of a topic.
pub(crate) const BAD_TOPIC: &str = "E0209";
/// Not a duration or a size.
pub(crate) const BAD_UNIT: &str = "E0210";
/// A number, duration or size outside its range.
pub(crate) const OUT_OF_RANGE: &str = "E0211";
/// Two settings of which only one can hold.
pub(crate) const CONTRADICTION: &str = "E0212";
/// Twice the same where each may be there once.
pub(crate) const DUPLICATE: &str = "E0213";
/// A second trigger without a name.
pub(crate) const UNNAMED_TRIGGER: &str = "E0214";
/// A trigger that reads what it writes.
pub(crate) const LOOP: &str = "E0215";
/// A topic that is declared nowhere and written by nobody.
pub(crate) const UNDECLARED_TOPIC: &str = "E0216";
/// A path that leaves the application's folder, or is none.
pub(crate) const BAD_PATH: &str = "E0217";
/// A folder or file of a function that is not there.
pub(crate) const MISSING_FILE: &str = "E0218";
/// The file of the feed, or a column of it, that is not there.
pub(crate) const MISSING_FEED: &str = "E0219";
/// A destination that cannot be this topic.
pub(crate) const BAD_DESTINATION: &str = "E0224";
/// Several functions that write what each other read.
pub(crate) const LOOP_OF_SEVERAL: &str = "W0201";
/// A function that nothing starts.
pub(crate) const NO_TRIGGER: &str = "W0202";
