//! The readers in Python and JavaScript see in our frames what was put into them, and refuse
//! what is cut. A machine without the interpreter skips its reader, and says so.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{request, response, widened_request, widened_response};

const REQUEST: &str = "\
request 7 key|1764000000000|dev|tidy|0123456789ab|weather/tidy/tidy|
in|3|40|5|1|6b6579|76616c7565|[61=ff00 61=-]
other|0|41|-1|2|-|-|[]
in|3|45|6|3|||[]
";

const RESPONSE: &str = "\
response 7|ok|failed|not run
1|Test.Failed|it did
0|-|-1|keep|6f6e65|[]
0|alerts|2|6b|-|[68=76]
";

/// What a reader prints; `None` when it refuses the frame.
fn printed(interpreter: &str, reader: &str, frame: &[u8]) -> std::io::Result<Option<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers").join(reader);
    let mut command = Command::new(interpreter);
    command.arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // A reader that refuses at once may have gone before it has all.
    child.stdin.take().expect("it is piped").write_all(frame).ok();
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout).expect("readers print text");
    Ok(output.status.success().then_some(text))
}

#[expect(clippy::print_stderr, reason = "a skip is seen")]
fn reads(interpreter: &str, reader: &str) {
    let see = |frame: &[u8]| printed(interpreter, reader, frame);
    match see(&request()) {
        Err(error) => eprintln!("skipped: {reader} needs {interpreter}: {error}"),
        Ok(text) => {
            assert_eq!(text.as_deref(), Some(REQUEST), "{reader}");
            assert_eq!(see(&response()).unwrap().as_deref(), Some(RESPONSE), "{reader}");
            let (wide, wider) = (widened_request(), widened_response());
            assert_eq!(see(&wide).unwrap().as_deref(), Some(REQUEST), "{reader}: skips");
            assert_eq!(see(&wider).unwrap().as_deref(), Some(RESPONSE), "{reader}: skips");
            for frame in [request(), response()] {
                assert_eq!(see(&frame[..frame.len() - 1]).unwrap(), None, "{reader}: cut");
            }
        }
    }
}

#[test]
fn the_reader_in_python_reads_our_frames() {
    reads("python3", "frame.py");
}

#[test]
fn the_reader_in_javascript_reads_our_frames() {
    reads("node", "frame.js");
}
