//! How it went, in one table for people and one line for programs, and whether that is good enough.
//!
//! Unknown is `?` and null, never zero: a figure that nobody measured must not look like a good one.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{
    check::Findings,
    load::{Class, Phase, Report},
};

/// The words are those of the project's first issue, and stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub requests: u64,
    /// Offered requests without a 2xx answer within 5 s.
    pub failed: u64,
    pub latency: LatencyTable,
    pub moves: Vec<MoveFigures>,
    /// None until the checker has read the databases; such a verdict is red.
    pub ledger: Option<LedgerFigures>,
    /// What else went wrong, in words. In the table only; any of it is red.
    #[serde(skip)]
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyTable {
    pub movers: BeforeAndDuring,
    pub neighbours: BeforeAndDuring,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BeforeAndDuring {
    pub before: Quantiles,
    pub during: Quantiles,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MoveFigures {
    pub tenant: String,
    /// For example `shared to dedicated`.
    pub kind: String,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    /// None: the move did not end.
    pub duration_s: Option<f64>,
    pub rows_per_s: Option<f64>,
    /// By the edge's clock: from the first request held to the last one sent on.
    pub pause_ms: Option<f64>,
    /// By the client's clock: the longest time in which no offered write was acknowledged.
    pub client_gap_ms: Option<f64>,
    pub held_requests: Option<u64>,
    /// Rows read from both databases and compared.
    pub rows_verified: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerFigures {
    pub acknowledged: u64,
    /// Not there as it was acknowledged: gone, or with other values.
    pub missing: u64,
    pub duplicated: u64,
}

impl Verdict {
    pub fn new(report: &Report, moves: Vec<MoveFigures>, findings: Option<&Findings>) -> Self {
        let mut problems: Vec<_> = report
            .failures
            .iter()
            .map(|failure| {
                let status = failure.status.map_or("no answer".into(), |status| status.as_u16().to_string());
                format!(
                    "{} at {:.3} s: {}: {status}: {}",
                    failure.tenant,
                    failure.at.as_secs_f64(),
                    failure.what,
                    failure.said
                )
            })
            .collect();
        problems.extend(findings.into_iter().flat_map(|findings| findings.examples.iter().cloned()));
        let quantiles = |class, phase| Quantiles {
            p50_ms: report.latency.quantile_ms(class, phase, 0.5),
            p99_ms: report.latency.quantile_ms(class, phase, 0.99),
        };
        let both = |class| BeforeAndDuring {
            before: quantiles(class, Phase::Before),
            during: quantiles(class, Phase::During),
        };
        Self {
            requests: report.requests,
            failed: report.failed,
            latency: LatencyTable { movers: both(Class::Mover), neighbours: both(Class::Neighbour) },
            moves,
            ledger: findings.map(|findings| LedgerFigures {
                acknowledged: findings.acknowledged,
                // A write whose values changed is not the write that was acknowledged.
                missing: findings.missing + findings.changed,
                duplicated: findings.duplicated,
            }),
            problems,
        }
    }

    /// Nothing failed, nothing was lost or doubled, every move ended with every row verified, and all of that is known.
    pub fn is_green(&self) -> bool {
        let ledger =
            self.ledger.is_some_and(|ledger| ledger.acknowledged > 0 && ledger.missing == 0 && ledger.duplicated == 0);
        let moved = |figures: &MoveFigures| {
            figures.duration_s.is_some()
                && matches!((figures.rows, figures.rows_verified), (Some(rows), Some(verified)) if verified >= rows)
        };
        ledger && self.failed == 0 && self.problems.is_empty() && self.moves.iter().all(moved)
    }

    /// 0 when green, else 2: not the caller's fault.
    pub fn exit_code(&self) -> u8 {
        if self.is_green() { 0 } else { 2 }
    }

    /// One object on one line, without a line end.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and lists of them always become JSON")
    }

    /// The same for people, with a line end after each line.
    pub fn table(&self) -> String {
        let mut out = String::new();
        self.write_table(&mut out).expect("a string takes whatever is written to it");
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "requests   {:>10} offered  {:>6} failed", self.requests, self.failed)?;
        match self.ledger {
            Some(LedgerFigures { acknowledged, missing, duplicated }) => {
                writeln!(
                    out,
                    "ledger     {acknowledged:>10} writes   {missing:>6} missing  {duplicated:>6} duplicated"
                )?;
            }
            None => writeln!(out, "ledger     {:>10} writes   {:>6} missing  {:>6} duplicated", "?", "?", "?")?,
        }
        writeln!(
            out,
            "\n{:<12}{:>12}{:>12}{:>12}{:>12}",
            "latency", "before p50", "before p99", "during p50", "during p99"
        )?;
        for (who, of) in [("movers", &self.latency.movers), ("neighbours", &self.latency.neighbours)] {
            let all = [of.before.p50_ms, of.before.p99_ms, of.during.p50_ms, of.during.p99_ms].map(ms);
            writeln!(out, "{who:<12}{:>12}{:>12}{:>12}{:>12}", all[0], all[1], all[2], all[3])?;
        }
        if !self.moves.is_empty() {
            let width = self.moves.iter().map(|one| one.tenant.len()).max().unwrap_or(0).max("move of".len());
            writeln!(
                out,
                "\n{:<width$}  {:<20}{:>11}{:>11}{:>10}{:>10}{:>12}{:>12}{:>7}{:>11}",
                "move of", "kind", "rows", "verified", "time", "rows/s", "pause", "client gap", "held", "size",
            )?;
            for one in &self.moves {
                writeln!(
                    out,
                    "{:<width$}  {:<20}{:>11}{:>11}{:>10}{:>10}{:>12}{:>12}{:>7}{:>11}",
                    one.tenant,
                    one.kind,
                    known(one.rows),
                    known(one.rows_verified),
                    one.duration_s.map_or_else(unknown, |seconds| format!("{seconds:.1} s")),
                    one.rows_per_s.map_or_else(unknown, |rate| format!("{rate:.0}")),
                    ms(one.pause_ms),
                    ms(one.client_gap_ms),
                    known(one.held_requests),
                    one.bytes.map_or_else(unknown, |bytes| format!("{:.1} MB", bytes as f64 / 1e6)),
                )?;
            }
        }
        for problem in &self.problems {
            writeln!(out, "problem: {problem}")?;
        }
        writeln!(out, "\nverdict: {}", if self.is_green() { "green" } else { "RED" })
    }
}

fn unknown() -> String {
    "?".into()
}

fn known(value: Option<u64>) -> String {
    value.map_or_else(unknown, |value| value.to_string())
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(unknown, |ms| format!("{ms:.1} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Verdict {
        Verdict {
            requests: 100,
            failed: 0,
            latency: LatencyTable::default(),
            moves: vec![MoveFigures {
                tenant: "acme".into(),
                kind: "shared to dedicated".into(),
                rows: Some(10),
                duration_s: Some(1.5),
                rows_verified: Some(12),
                ..MoveFigures::default()
            }],
            ledger: Some(LedgerFigures { acknowledged: 60, missing: 0, duplicated: 0 }),
            problems: Vec::new(),
        }
    }

    #[test]
    fn each_single_fault_turns_the_verdict_red() {
        assert_eq!((good().is_green(), good().exit_code()), (true, 0));
        type Plant = fn(&mut Verdict);
        let faults: [(&str, Plant); 9] = [
            ("a failed request", |v| v.failed = 1),
            ("a missing write", |v| v.ledger.as_mut().unwrap().missing = 1),
            ("a doubled write", |v| v.ledger.as_mut().unwrap().duplicated = 1),
            ("an empty ledger", |v| v.ledger.as_mut().unwrap().acknowledged = 0),
            ("no check", |v| v.ledger = None),
            ("a move that did not end", |v| v.moves[0].duration_s = None),
            ("a move whose rows nobody compared", |v| v.moves[0].rows_verified = None),
            ("a row that was not compared", |v| v.moves[0].rows_verified = Some(9)),
            ("a problem in words", |v| v.problems.push("a process was left behind".into())),
        ];
        for (fault, plant) in faults {
            let mut verdict = good();
            plant(&mut verdict);
            assert_eq!((verdict.is_green(), verdict.exit_code()), (false, 2), "{fault}");
            assert!(verdict.table().ends_with("verdict: RED\n"), "{fault}");
        }
    }

    #[test]
    fn the_line_has_the_words_of_the_issue_and_null_for_what_is_unknown() {
        assert_eq!(
            good().json(),
            concat!(
                r#"{"requests":100,"failed":0,"latency":{"movers":{"before":{"p50_ms":null,"p99_ms":null},"#,
                r#""during":{"p50_ms":null,"p99_ms":null}},"neighbours":{"before":{"p50_ms":null,"p99_ms":null},"#,
                r#""during":{"p50_ms":null,"p99_ms":null}}},"moves":[{"tenant":"acme","kind":"shared to dedicated","#,
                r#""rows":10,"bytes":null,"duration_s":1.5,"rows_per_s":null,"pause_ms":null,"client_gap_ms":null,"#,
                r#""held_requests":null,"rows_verified":12}],"#,
                r#""ledger":{"acknowledged":60,"missing":0,"duplicated":0}}"#
            )
        );
        let table = good().table();
        assert!(table.contains('?') && table.contains("acme") && table.ends_with("verdict: green\n"), "{table}");
    }
}
