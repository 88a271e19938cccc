//! `cofferdam doctor`: what the sandbox found out about this machine, as a list.

use std::process::ExitCode;

use cofferdam_sandbox::Finding;

/// Prints one line per finding; fails when builds cannot be isolated here.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let findings = cofferdam_sandbox::doctor();
    print!("{}", table(&findings));
    let missing = findings.iter().filter(|finding| finding.required && !finding.present).count();
    if missing == 0 {
        println!("\nIsolation level \"namespaces\" is available.");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "\nIsolation level \"namespaces\" is not available: {missing} required mechanism(s) missing."
    );
    Ok(ExitCode::FAILURE)
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    findings
        .iter()
        .map(|finding| {
            let mark = match (finding.present, finding.required) {
                (true, _) => "ok",
                (false, true) => "MISSING",
                (false, false) => "absent",
            };
            format!("{mark:<8} {:<width$}  {}\n", finding.name, finding.detail)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_requirement_stands_out() {
        let finding =
            |name, present, required| Finding { name, present, required, detail: "why".into() };
        let text = table(&[
            finding("a", true, true),
            finding("long", false, true),
            finding("c", false, false),
        ]);
        assert_eq!(text, "ok       a     why\nMISSING  long  why\nabsent   c     why\n");
    }
}
