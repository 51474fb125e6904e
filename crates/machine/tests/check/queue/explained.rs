//! Where the machine says that a message is, and what keeps it there, beside what the reference knows of it.

use quorate_machine::queue::{
    Explanation, Obstacle, Offset, Place, Queue, Session, Standing, Waiting, Way,
};

use super::Tally;
use super::reference::{Reference, State};

/// Most messages that are asked for after one entry.
const MOST: u64 = 4;

/// Asks for some messages, others each time, the newest among them and the one that is not there yet.
pub fn check(queue: &Queue, reference: &Reference, index: u64, tally: &mut Tally) {
    let next = reference.messages.len() as u64;
    let explained = queue.explain(Offset(next));
    assert_eq!((&explained.place, explained.run), (&Place::Unpublished, None));
    assert_eq!(explained.next, Offset(next));
    let some = (0..MOST).map(|step| (index.wrapping_mul(7) + step * 13) % next.max(1));
    for offset in some.chain(next.checked_sub(1)).filter(|&offset| offset < next) {
        one(queue, reference, offset, tally);
    }
}

fn one(queue: &Queue, reference: &Reference, offset: u64, tally: &mut Tally) {
    let explained = queue.explain(Offset(offset));
    let message = &reference.messages[offset as usize];
    let published = explained.published.map(|since| since.0);
    assert_eq!(published, reference.since(offset), "when {offset} was published");
    let expiries = [explained.expires, explained.own_expires].map(|at| at.map(|at| at.0));
    assert_eq!(expiries, reference.expiries(offset), "until when {offset} is delivered");
    assert_eq!(explained.first_held.0, reference.first_held());
    let Explanation { place, deliveries, priority, .. } = explained;
    if !matches!(place, Place::Left { .. }) {
        assert_eq!(deliveries, Some(message.deliveries), "deliveries of {offset}");
    }
    match (&place, message.state) {
        (Place::Free(standing), state) => {
            assert_eq!(priority, Some(message.priority));
            free(standing, state, reference, offset, tally);
        }
        (Place::Blocked { head, ahead, due, standing }, State::Blocked { due: until }) => {
            tally.add("explained blocked", 1);
            assert_eq!((head.0, *ahead), reference.group_before(offset), "who comes first");
            let due = due.map_or(0, |due| due.0).max(reference.now);
            assert_eq!(due, until.max(reference.now), "its own time");
            free(standing, reference.messages[head.0 as usize].state, reference, head.0, tally);
        }
        (Place::Dead { cause, ahead }, State::Dead { seq, cause: known }) => {
            tally.add("explained dead", 1);
            let first = reference.dead();
            let before = first.iter().take_while(|(other, ..)| *other < seq).count() as u64;
            assert_eq!((*cause, *ahead), (known, before), "why it died and when it is moved");
        }
        (Place::Left { kept, ways }, state) => {
            let way = way(state).unwrap_or_else(|| panic!("{offset} is {state:?}, not gone"));
            assert!(ways.iter().any(|(known, _)| *known == way), "{way:?} of {ways:?}");
            assert_eq!(kept.is_some(), reference.since(offset).is_some(), "what is kept");
            let is_readable = reference.readable().iter().any(|(other, _)| *other == offset);
            let readable = kept.as_ref().is_some_and(|kept| kept.readable);
            assert_eq!(readable, is_readable, "whether {offset} can be read");
            tally.add("explained gone", 1);
        }
        (place, state) => panic!("{offset} is {state:?}, not {place:?}"),
    }
}

fn way(state: State) -> Option<Way> {
    Some(match state {
        State::Acked => Way::Acked,
        State::Rejected => Way::Rejected,
        State::Exhausted => Way::Exhausted,
        State::Expired => Way::Expired,
        State::Dropped => Way::Dropped,
        State::DeadLettered => Way::DeadLettered,
        State::Purged => Way::Purged,
        _ => return None,
    })
}

fn free(standing: &Standing, state: State, reference: &Reference, offset: u64, tally: &mut Tally) {
    match (standing, state) {
        (Standing::Ready(waiting), State::Ready) => {
            let before = (waiting.ahead, waiting.ahead_by_priority);
            assert_eq!(before, reference.before(offset), "how many go out before {offset}");
            obstacles(waiting, reference, offset, tally);
        }
        (Standing::Delayed { due }, State::Delayed { due: until }) => assert_eq!(due.0, until),
        (Standing::Leased(holder), State::Leased { session, token, deadline, started, .. }) => {
            let known = (holder.consumer.session, holder.token.0, holder.deadline.0);
            assert_eq!(known, (session, token, deadline), "who has {offset}");
            assert_eq!(holder.started, started, "whether it was begun");
        }
        (standing, state) => panic!("{offset} is {state:?}, not {standing:?}"),
    }
}

/// Whatever is ready after an entry has something in its way, and that is so.
fn obstacles(waiting: &Waiting, reference: &Reference, offset: u64, tally: &mut Tally) {
    let Waiting { obstacles, crowd, active, .. } = waiting;
    assert!(!obstacles.is_empty(), "a message is ready, and nothing is in its way: {waiting:?}");
    let sessions: Vec<Session> = reference.consumers.keys().copied().collect();
    assert_eq!(crowd.all as usize, sessions.len(), "consumers");
    let message = &reference.messages[offset as usize];
    let could = sessions
        .iter()
        .filter(|&&session| reference.credit(session) > 0 && reference.passes(session, message));
    let could = could.count();
    let idle = crowd.all - crowd.away - crowd.paused - crowd.filtered - crowd.full;
    assert_eq!(idle as usize, could, "who could take something: {waiting:?}");
    assert_eq!(obstacles.contains(&Obstacle::QueuePaused), reference.paused);
    assert_eq!(obstacles.contains(&Obstacle::NoConsumer), sessions.is_empty());
    let single = [Obstacle::ActiveFull, Obstacle::OthersHold];
    let is_single = obstacles.iter().any(|obstacle| single.contains(obstacle));
    assert_eq!(is_single, active.is_some(), "who keeps the others waiting: {waiting:?}");
    if let Some(active) = active {
        assert!(reference.settings.single_active && active.leased > 0, "{waiting:?}");
    }
    for obstacle in obstacles {
        tally.add(
            match obstacle {
                Obstacle::QueuePaused => "queue paused in the way",
                Obstacle::TooManyDead | Obstacle::ExpiryBehind => "steps in the way",
                Obstacle::NoConsumer => "no consumer in the way",
                Obstacle::ConsumersAway => "consumers away in the way",
                Obstacle::ConsumersPaused => "consumers paused in the way",
                Obstacle::FilteredOut => "filters in the way",
                Obstacle::CreditUsed => "credit in the way",
                Obstacle::ActiveFull => "active one in the way",
                Obstacle::OthersHold => "others in the way",
            },
            1,
        );
    }
}
