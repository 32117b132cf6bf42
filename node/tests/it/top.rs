//! `millrace top` on a pseudo-terminal: what is on the screen, and that the terminal is given back as
//! it was.

use std::process::Stdio;

use crate::harness::User;

/// Runs a command on a terminal of 110 columns, presses keys when it has seen words, and prints what
/// it exited with and what it drew.
const TERMINAL: &str = r#"
import fcntl, os, pty, select, struct, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 110, 0, 0))
drawn, until = b"", time.time() + 20
steps = [(b"FUNCTION", b"i"), (b"INSTANCE", b"sq")]
while time.time() < until:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        drawn += part
    if steps and steps[0][0] in drawn:
        os.write(terminal, steps.pop(0)[1])
if until <= time.time():
    os.kill(pid, 9)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(status, len(steps), b"\x1b[?1049h" in drawn)
print(drawn.decode("utf-8", "replace"))
"#;

#[test]
fn the_screen_is_drawn_and_given_back() {
    let user = User::new();
    let file = user.start("greenhouse");
    let mut command = user.command("top");
    let program = command.get_program().to_owned();
    let mut terminal = std::process::Command::new("python3");
    terminal.args(["-c", TERMINAL]).arg(program).arg("top").env("TERM", "xterm-256color");
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    terminal.env_remove("NO_COLOR").env_remove("MILLRACE_NODE").current_dir(user.folder());
    let said = terminal.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let (ended, drawn) = said.split_once('\n').unwrap();
    assert!(ended.starts_with("0 0 True"), "{ended}: {drawn:?}");
    assert!(drawn.contains("\x1b[?1049l"), "the screen is given back: {drawn:?}");
    for word in [file.name.as_str(), "hot-alert", "RATE/s", "q quit"] {
        assert!(drawn.contains(word), "no {word} in {drawn:?}");
    }
    // Without a terminal there is nothing to draw on.
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
