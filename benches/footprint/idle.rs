//! What the operator does when there is nothing to do.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    audit,
    round::{ELECTION, Operator},
    table::Table,
};

const IDLE: &str = "An idle hour, reckoned from the time it was watched";

/// Watches the idle operator for a while.
pub async fn measure(operator: &Operator, span: Duration, beside: &str, table: &mut Table) {
    let (from, cpu) = (Timestamp::now(), operator.process.cpu());
    tokio::time::sleep(span).await;
    let (until, cpu) = (Timestamp::now(), operator.process.cpu() - cpu);
    let requests = operator.requests(from, until).await;
    let an_hour = |count: f64| count * 3600.0 / span.as_secs_f64();

    let (of_election, others): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.is_of_election(ELECTION));
    let writes = others.iter().filter(|request| request.is_write()).count();
    table.add(IDLE, format!("writes beside {beside}, the leader's Lease apart"), "", "0", an_hour(writes as f64));
    table.note(IDLE, "requests for the leader's Lease", "", an_hour(of_election.len() as f64));
    table.note(IDLE, "all other requests", "", an_hour(others.len() as f64));
    for (kind, count) in audit::counts(others) {
        table.note(IDLE, format!("of them {kind}"), "", an_hour(count as f64));
    }
    table.note(IDLE, "CPU", "s", an_hour(cpu.as_secs_f64()));
}
