//! How a script shows where a message is.

use std::fmt::Write as _;

use quorate_machine::queue::{
    Explanation, Holder, Kept, Offset, Place, Queue, Standing, Waiting, Way,
};
use quorate_machine::{LogIndex, Millis};

/// One line, and one more for what is known besides.
pub fn show(queue: &Queue, offset: u64, output: &mut String) {
    let explained = queue.explain(Offset(offset));
    writeln!(output, "{offset} is {}", place(&explained.place)).unwrap();
    let facts = facts(&explained);
    if !facts.is_empty() {
        writeln!(output, "  {}", facts.join(", ")).unwrap();
    }
}

fn place(place: &Place) -> String {
    match place {
        Place::Unpublished => "not published yet".to_owned(),
        Place::Free(free) => standing(free),
        Place::Blocked { head, ahead, due, standing: first } => {
            let due = due.map_or_else(String::new, |Millis(due)| format!(" until {due},"));
            let (head, first) = (head.0, standing(first));
            format!("blocked,{due} {ahead} of its key before it; the first, {head}, is {first}")
        }
        Place::Dead { cause, ahead } => format!("dead, {}, behind {ahead}", cause.as_str()),
        Place::Left { kept: None, ways } => format!("gone: {}", shown(ways)),
        Place::Left { kept: Some(kept), ways } => format!("gone: {}; {}", shown(ways), left(kept)),
    }
}

fn standing(standing: &Standing) -> String {
    match standing {
        Standing::Ready(waiting) => ready(waiting),
        Standing::Delayed { due } => format!("delayed until {}", due.0),
        Standing::Leased(Holder { consumer, token, deadline, started }) => {
            let started = if *started { "" } else { ", not begun" };
            let (name, token, deadline) = (&consumer.name, token.0, deadline.0);
            format!("leased by {name}, token {token}, until {deadline}{started}")
        }
    }
}

fn ready(waiting: &Waiting) -> String {
    let Waiting { ahead, ahead_by_priority, obstacles, crowd, active } = waiting;
    let by_priority = match ahead_by_priority {
        0 => String::new(),
        urgent => format!(" ({urgent} by priority)"),
    };
    let active = active.as_ref().map_or_else(String::new, |it| format!(" by {}", it.name));
    let (all, away, paused, full) = (crowd.all, crowd.away, crowd.paused, crowd.full);
    let filtered = match crowd.filtered {
        0 => String::new(),
        filtered => format!("{filtered} filtered, "),
    };
    format!(
        "ready behind {ahead}{by_priority}, {obstacles:?}{active}, {all} consumers: {away} away, \
         {paused} paused, {filtered}{full} full"
    )
}

fn shown(ways: &[(Way, u64)]) -> String {
    let ways: Vec<String> = ways.iter().map(|(way, count)| format!("{way:?} {count}")).collect();
    ways.join(" or ")
}

fn left(kept: &Kept) -> String {
    let readable = if kept.readable { "readable" } else { "not readable" };
    let until = kept.until.map_or_else(String::new, |until| format!(", until {}", until.0));
    let slots: Vec<&str> = kept.slots.iter().map(|slot| slot.as_str()).collect();
    let slots = match slots.is_empty() {
        true => String::new(),
        false => format!(", for {}", slots.join(" ")),
    };
    format!("{readable}, {} of its batch held{until}{slots}", kept.held)
}

fn facts(explained: &Explanation) -> Vec<String> {
    let mut facts = Vec::new();
    let mut say = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| format!("{name} {value}")));
    };
    say("published", explained.published.map(|at| at.0.to_string()));
    say("deliveries", explained.deliveries.map(|times| times.to_string()));
    say("priority", explained.priority.filter(|of| *of > 0).map(|of| of.to_string()));
    say("expires", explained.expires.map(|at| at.0.to_string()));
    say("of itself", explained.own_expires.map(|at| at.0.to_string()));
    say(
        "body at",
        explained.run.map(|run| {
            let (LogIndex(index), ordinal, skip) = (run.index, run.ordinal, run.skip);
            format!("{index}.{ordinal}+{skip}")
        }),
    );
    facts
}
