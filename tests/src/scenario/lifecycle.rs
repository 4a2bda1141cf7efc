//! What `stockade run` and `stockade doctor` promise about themselves.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::Value;

use super::daemon::Daemon;
use super::{Tally, Verdict};

pub type Check = fn() -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("run_passes_exit_status", || status(&["sh", "-c", "exit 7"], 7)),
    ("run_passes_signal_as_128_plus_n", || status(&["sh", "-c", "kill -TERM $$"], 143)),
    ("run_unknown_command_is_127", || status(&["no-such-command"], 127)),
    ("run_unexecutable_command_is_126", || status(&["/etc/passwd"], 126)),
    ("run_missing_interpreter_is_126", interpreter),
    ("run_bad_policy_is_2", bad_policy),
    ("run_sets_no_new_privs", || prints("grep NoNewPrivs /proc/self/status", "1")),
    ("run_closes_descriptors", descriptors),
    ("run_kills_leftovers", leftovers),
    ("run_removes_cgroup", cgroup_removed),
    ("run_summary_names_flag", summary),
    ("run_enforce_events", || events("enforce", false)),
    ("run_audit_events", || events("audit", true)),
    ("run_events_are_as_the_schema_says", super::events::schema),
    ("run_events_name_program_and_descent", super::events::descent),
    ("run_events_follow_no_link", super::events::planted),
    ("run_shell_has_the_terminal", super::terminal::shell),
    ("run_interrupt_comes_once", super::terminal::interrupt),
    ("run_stops_and_continues", super::terminal::stop),
    ("run_polices_nested_cgroup", super::survival::nested_cgroup),
    ("run_killed_leaves_nothing_unpoliced", super::survival::killed),
    ("run_clears_what_killed_runs_left", super::survival::cleared),
    ("link_allow_holds_at_its_end", super::links::allowed),
    ("link_deny_holds_for_every_name", super::links::denied),
    ("link_of_a_denial_cannot_be_changed", super::links::kept),
    ("link_planted_in_workspace_opens_nothing", super::links::planted),
    ("overlay_directories_are_listed_by_its_names", super::overlays::listed),
    ("overlay_files_are_changed_by_its_names", super::overlays::copied_up),
    ("overlay_layers_have_names_of_their_own", super::overlays::layers),
    ("metadata_of_what_is_denied_is_denied", super::looks::denied),
    ("metadata_guarded_is_of_what_is_allowed", super::looks::guarded),
    ("run_remembers_no_directory_past_a_rename", super::remember::renamed),
    ("net_zero_bound_tcp_reaches_nothing_unlisted", super::flags::zero_bound_tcp),
    ("net_zero_bound_udp_reaches_nothing_unlisted", super::flags::zero_bound_udp),
    ("net_zero_needs_both_rules", super::flags::zero_needs_both),
    ("tiocsti_is_denied", super::flags::tiocsti),
    ("run_keeps_no_setfcap", super::flags::no_setfcap),
    ("unix_twin_own_sockets_can_be_reached", super::flags::own_sockets),
    ("process_twin_own_child_can_be_traced", super::flags::own_child),
    ("process_twin_own_processes_and_namespaces", super::powers::own),
    ("process_refusal_names_the_flag", super::powers::told),
    ("process_module_request_is_told", super::powers::modules),
    ("powers_root_has_the_capabilities_it_is_given", super::powers::capabilities),
    ("powers_user_namespaces_mount_by_leave_only", super::powers::user_namespaces),
    ("powers_ipc_of_the_host_is_others", super::powers::ipc),
    ("powers_signals_stay_within_a_tag", super::powers::signals),
    ("powers_root_cannot_touch_what_governs_it", super::powers::governed),
    ("rename_leaves_no_stale_verdict", super::renames::stale),
    ("rename_race_gives_no_wrong_verdict", super::renames::race),
    ("rename_side_by_side_runs_do_not_mix", super::renames::side_by_side),
    ("names_are_answered_on_every_transport", super::names::every_transport),
    ("names_no_rule_covers_do_not_exist", super::names::other_names),
    ("names_wildcard_is_below_and_denial_wins", super::names::wildcards),
    ("names_alias_allows_what_was_asked_for", super::names::alias),
    ("names_of_inner_addresses_open_nothing", super::names::rebinding),
    ("net_metadata_needs_a_rule_of_its_own", super::names::metadata),
    ("names_of_one_run_are_nothing_to_another", super::names::apart),
    ("net_loopback_own_is_the_tags_own", super::names::loopback_own),
    ("names_every_way_out_means_the_name", super::ways::by_name),
    ("names_gate_is_reached_by_questions_only", super::ways::gate),
    ("names_gate_answers_its_own_scope_only", super::ways::gate_of_its_own),
    ("names_only_ipv6_is_answered_where_it_is", super::ways::only_ipv6),
    ("net_wall_holds_though_a_denial_is_undone", super::wall::with_lsm),
    ("net_flows_a_reload_forbids_are_ended", super::flows::at_reload),
    ("egress_nothing_leaves_by_another_interface", super::egress::one_way_out),
    ("run_degrades_only_where_it_must", allowed_to_degrade),
    ("doctor_enforced", doctor),
    ("daemon_tags_a_cgroup_as_it_is_made", super::daemon::at_creation),
    ("daemon_starter_is_policed_from_its_first_execution", super::daemon::starter),
    ("daemon_policed_is_no_starter_again", super::daemon::no_starter_again),
    ("daemon_polices_at_once_where_it_must", super::daemon::at_once),
    ("daemon_reloads_give_no_wrong_verdict", super::reloads::reloads),
    ("daemon_verdicts_are_those_of_the_model", super::differential::same_as_model),
    ("daemon_comparison_tells_where_policies_differ", super::daemon::shadow),
    ("daemon_mode_by_hand_ends_with_a_reload", super::daemon::mode),
    ("daemon_refused_start_is_told", super::waiting::refused),
    ("daemon_untag_lets_go_of_what_was_tagged_by_hand", super::failures::untag),
    ("daemon_killed_leaves_all_held", super::daemon::killed),
    ("daemon_workload_with_own_mounts_waits", super::daemon::other_mounts),
    ("daemon_bad_input_leaves_all_held", super::daemon::bad_input),
    ("daemon_last_good_policies_hold_when_files_are_broken", super::broken::last_good),
    ("daemon_broken_policy_that_says_for_whom_allows_nothing", super::broken::readable),
    ("daemon_refuses_a_damaged_last_good", super::broken::damaged),
    ("daemon_with_state_that_cannot_be_written_says_so", super::broken::read_only),
    ("daemon_log_goes_on_after_a_full_disk", super::full::disk),
    ("daemon_full_table_of_tags_allows_nothing", super::full::tags),
    ("daemon_hanging_files_of_a_workload_hold_nobody_up", super::stall::hanging),
    ("daemon_policy_file_gone_lets_go", super::failures::file_gone),
    ("daemon_broken_policy_without_pins_does_not_start", super::failures::broken_at_boot),
    ("daemon_goes_by_the_v2_cgroup", super::failures::hierarchies),
    ("daemon_continued_by_others_is_held", super::waiting::continued),
    ("daemon_undecided_continued_is_allowed_nothing", super::waiting::continued_undecided),
    ("daemon_broken_policy_keeps_waiting_what_waits", super::waiting::broken_policy),
    ("daemon_lost_records_are_made_good", super::waiting::lost_records),
    ("daemon_cgroup_path_too_long_waits", super::limits::long_path),
    ("daemon_starters_are_policed_after_two_minutes", super::limits::starters),
    ("daemon_full_table_of_tags_holds", super::limits::tags),
];

/// Each takes minutes, and asks of the daemon and not of the kernel: tried on one kernel, unless asked for by name.
const SLOW: [&str; 3] = [
    "daemon_starters_are_policed_after_two_minutes",
    "daemon_full_table_of_tags_holds",
    "daemon_full_table_of_tags_allows_nothing",
];

/// What rules mean, whoever has loaded the programs. These go through a daemon that is there already, as runs do on a host with
/// the service; all others load their own, which takes long.
const EITHER_WAY: [&str; 11] = [
    "link_",
    "metadata_",
    "overlay_",
    "unix_",
    "receive_",
    "listen_",
    "powers_",
    "rename_",
    "net_zero",
    "net_metadata",
    "net_loopback",
];

/// More of what rules mean: on one kernel by a daemon as well, on the others by programs that each run loads.
const BRIEF_EITHER_WAY: [&str; 2] = ["names_", "process_"];

/// Of those, what a command says about itself, since a run that loads its own programs says more; and what starts a daemon.
const OWN_WORDS: [&str; 4] = [
    "unix_event_names_the_socket",
    "listen_refusal_names_the_flag",
    "process_refusal_names_the_flag",
    "names_gate_answers_its_own_scope_only",
];

/// Runs every matching check.
pub fn run(filter: &str, tally: &mut Tally) -> io::Result<()> {
    prepare()?;
    let checks = CHECKS.iter().chain(super::net_unix::CHECKS).chain(super::net_listen::CHECKS);
    let brief = std::env::var_os("SCENARIO_BRIEF").is_some();
    let more: &[&str] = if brief { &BRIEF_EITHER_WAY } else { &[] };
    let either_way = |name: &str| {
        EITHER_WAY.iter().chain(more).any(|start| name.starts_with(start)) && !OWN_WORDS.contains(&name)
    };
    let mut chosen: Vec<_> = checks.filter(|(name, _)| super::is_chosen(name, filter)).collect();
    // Those that share a daemon side by side, so that it is started once.
    chosen.sort_by_key(|(name, _)| !either_way(name));
    for (name, check) in chosen {
        if brief && SLOW.contains(name) {
            tally.report(name, Verdict::Skip("it takes minutes, and is tried on another kernel".into()));
            continue;
        }
        let failed = |why: String| match why.strip_prefix("skipped: ") {
            Some(why) => Verdict::Skip(why.to_owned()),
            None => Verdict::Fail(why),
        };
        let ready = match (name.starts_with("daemon_"), either_way(name)) {
            (true, _) => Ok(()),
            (false, true) => Daemon::shared(""),
            // Others may not meet the daemon that some share.
            (false, false) => Daemon::end_shared(),
        };
        tally.report(name, ready.and_then(|()| check()).map_or_else(failed, |()| Verdict::Ok));
    }
    Daemon::end_shared().map_err(io::Error::other)
}

fn prepare() -> io::Result<()> {
    fs::create_dir_all("/lifecycle/work")?;
    fs::write("/lifecycle/secret", "content\n")
}

/// The scenarios for a kernel booted without the BPF LSM.
pub fn without_lsm(tally: &mut Tally) -> io::Result<()> {
    prepare()?;
    let checks: [(&str, Check); 6] = [
        ("run_refuses_without_lsm", || status(&["true"], 3)),
        ("run_degraded_polices_network", degraded),
        ("net_wall_holds_though_a_denial_is_undone", super::wall::without_lsm),
        ("run_degraded_polices_ports_that_are_bound", super::net_listen::degraded),
        ("daemon_without_lsm_is_degraded_or_does_not_start", super::failures::degraded),
        ("doctor_says_what_is_missing", missing),
    ];
    for (name, check) in checks {
        tally.report(name, check().map_or_else(Verdict::Fail, |()| Verdict::Ok));
    }
    Ok(())
}

fn stockade(flags: &[&str], command: &[&str]) -> Result<Output, String> {
    let mut run = Command::new("stockade");
    run.args(["run", "--workspace", "/lifecycle/work"]).args(flags).arg("--").args(command);
    run.output().map_err(|e| format!("cannot start stockade: {e}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ensure(truth: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if truth { Ok(()) } else { Err(why()) }
}

fn status(command: &[&str], expected: i32) -> Result<(), String> {
    let output = stockade(&[], command)?;
    ensure(output.status.code() == Some(expected), || format!("{}: {}", output.status, text(&output.stderr)))
}

/// A script is there, and what is to read it is not.
fn interpreter() -> Result<(), String> {
    let script = "/lifecycle/work/script";
    fs::write(script, "#!/no/such/interpreter\n").map_err(|e| e.to_string())?;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    let output = stockade(&[], &[script])?;
    let message = text(&output.stderr);
    ensure(output.status.code() == Some(126), || format!("{}: {message}", output.status))?;
    ensure(message.contains("/no/such/interpreter"), || message)
}

fn prints(script: &str, expected: &str) -> Result<(), String> {
    let output = stockade(&["--allow-read=/proc/**"], &["sh", "-c", script])?;
    let printed = text(&output.stdout);
    ensure(printed.contains(expected), || format!("printed {printed:?}: {}", text(&output.stderr)))
}

fn bad_policy() -> Result<(), String> {
    let file = "/lifecycle/bad.toml";
    fs::write(file, "surely = not a policy [\n").map_err(|e| e.to_string())?;
    let output = stockade(&["--policy", file], &["true"])?;
    let message = text(&output.stderr);
    ensure(output.status.code() == Some(2), || format!("{}: {message}", output.status))?;
    ensure(message.contains("bad.toml"), || format!("the message does not name the file: {message}"))
}

fn descriptors() -> Result<(), String> {
    let script =
        "exec 9</lifecycle/secret; stockade run --workspace /lifecycle/work -- \"$0\" inherited-fd 9";
    let attempt = super::batch::attempt().map_err(|e| e.to_string())?;
    let output = Command::new("sh").args(["-c", script, &attempt]).output().map_err(|e| e.to_string())?;
    ensure(text(&output.stdout).trim() == "error EBADF", || text(&output.stdout) + &text(&output.stderr))
}

/// A background child must not outlive the run: its mark must not appear afterwards.
fn leftovers() -> Result<(), String> {
    let script = "(sleep 2; echo late > /lifecycle/work/late) >/dev/null 2>&1 & echo started";
    let output = stockade(&[], &["sh", "-c", script])?;
    ensure(text(&output.stdout).contains("started"), || text(&output.stderr))?;
    std::thread::sleep(std::time::Duration::from_secs(4));
    ensure(!fs::exists("/lifecycle/work/late").unwrap_or(true), || "a child outlived the run".into())
}

fn cgroup_removed() -> Result<(), String> {
    let output = stockade(&["--allow-read=/proc/**"], &["sh", "-c", "cat /proc/self/cgroup"])?;
    let printed = text(&output.stdout);
    let path = printed.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    ensure(path != "/", || format!("not in a cgroup of its own: {printed:?} {}", text(&output.stderr)))?;
    ensure(!fs::exists(format!("/sys/fs/cgroup{path}")).unwrap_or(true), || format!("{path} is still there"))
}

fn summary() -> Result<(), String> {
    let output = stockade(&[], &["sh", "-c", "cat /lifecycle/secret"])?;
    let message = text(&output.stderr);
    ensure(message.contains("--allow-read") && message.contains("/lifecycle/secret"), || message)
}

/// The open of a file outside the workspace, as told by the events.
fn events(mode: &str, works: bool) -> Result<(), String> {
    let file = format!("/lifecycle/{mode}.jsonl");
    let output = stockade(&["--mode", mode, "--events", &file], &["sh", "-c", "cat /lifecycle/secret"])?;
    ensure(output.status.success() == works, || format!("{}: {}", output.status, text(&output.stderr)))?;
    let lines = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    let mut seen = false;
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
        ensure(event["schema"] == "stockade/event/v1", || format!("wrong schema: {line}"))?;
        // Audit mode must say that it would have denied; enforcement, that it did.
        let word = if works { "would_deny" } else { "denied" };
        seen |= line.contains("/lifecycle/secret") && line.contains(word);
    }
    ensure(seen, || format!("no denial of the secret in: {lines}"))
}

/// Degraded, the network is policed and the files are not, and it says so.
fn degraded() -> Result<(), String> {
    let script = "cat /lifecycle/secret; nc -w1 127.0.0.1 1";
    let output = stockade(&["--allow-degraded", "network-only"], &["sh", "-c", script])?;
    let said = text(&output.stderr);
    let holds = text(&output.stdout).contains("content")
        && said.contains("files are not policed")
        && said.contains("Operation not permitted");
    ensure(holds, || format!("{}: {said}", output.status))
}

/// Leave to degrade is no wish: where files can be policed, they are.
fn allowed_to_degrade() -> Result<(), String> {
    let output = stockade(&["--allow-degraded", "network-only"], &["sh", "-c", "cat /lifecycle/secret"])?;
    ensure(!text(&output.stdout).contains("content"), || "the secret was read".into())
}

fn doctor() -> Result<(), String> {
    let (code, report) = doctor_report()?;
    let guarantees = guarantees(&report);
    let holds = guarantees.len() >= 21 && guarantees.iter().all(|g| g["state"] == "ENFORCED");
    ensure(code == Some(0) && holds, || format!("{code:?}: {report}"))
}

/// A kernel booted without BPF LSM and without IPv6: what the cgroup programs enforce is told from what is not there.
fn missing() -> Result<(), String> {
    let (code, report) = doctor_report()?;
    let is = |name: &str, state: &str, why: &str| {
        let said = |g: &Value| g["why"].as_str().unwrap_or_default().contains(why);
        guarantees(&report).iter().any(|g| g["name"] == name && g["state"] == state && said(g))
    };
    let holds = is("tcp4", "ENFORCED", "")
        && is("tcp6", "ABSENT", "no IPv6")
        && is("udp6", "ABSENT", "no IPv6")
        && is("file_read", "UNAVAILABLE", "lsm=")
        && is("file_read", "UNAVAILABLE", ",bpf");
    ensure(code == Some(3) && holds, || format!("{code:?}: {report}"))
}

fn doctor_report() -> Result<(Option<i32>, Value), String> {
    let output = Command::new("stockade").args(["doctor", "--json"]).output().map_err(|e| e.to_string())?;
    let report = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("{e}: {} {}", text(&output.stdout), text(&output.stderr)))?;
    Ok((output.status.code(), report))
}

fn guarantees(report: &Value) -> &[Value] {
    report["guarantees"].as_array().map_or(&[], Vec::as_slice)
}
