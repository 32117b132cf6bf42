//! A pure core: where a partition begins for a subscriber that goes on.
//!
//! - **SU-2** a resume token leads to the very next record, or to a reason: never past records that
//!   were not seen, and never to a topic that it was not made of.

use bus::Watermarks;
use exchange::Ended;
use live::{Reason, Resume, TopicPlace};

/// Whether a resume token is of this cluster and of the topics that are asked for, by name and id,
/// in the same order.
pub(super) fn check_resume(
    resume: &Resume,
    cluster: &str,
    topics: &[(String, u64)],
) -> Result<(), Ended> {
    let foreign = |said: String| Err(Ended::new(Reason::ForeignResume, said));
    if resume.cluster != cluster {
        let said = format!("the resume token is of cluster {}", resume.cluster.escape_debug());
        return foreign(format!("{said}, this is {cluster}"));
    }
    let names = |it: &TopicPlace| it.name.clone();
    if !resume.topics.iter().map(names).eq(topics.iter().map(|(name, _)| name.clone())) {
        let of: Vec<String> = resume.topics.iter().map(names).collect();
        return foreign(format!("the resume token is of {}", of.join(", ").escape_debug()));
    }
    let made_again = resume.topics.iter().zip(topics).find(|(of, (_, id))| of.id != *id);
    match made_again {
        Some((_, (name, _))) => {
            foreign(format!("topic {name} was deleted and made again since the resume token"))
        }
        None => Ok(()),
    }
}

/// Where a partition goes on. One that the token does not name is new since: nothing of it was seen.
pub(super) fn go_on(place: &TopicPlace, partition: u32, marks: Watermarks) -> Result<i64, Ended> {
    let (start, end) = (marks.start.0, marks.end.0);
    let Some(next) = place.positions.get(&partition).copied() else { return Ok(start) };
    let at = format!("{}[{partition}]", place.name);
    if next < start {
        let lost = start.abs_diff(next);
        let said =
            format!("{lost} records of {at} behind offset {next} are gone: {start} is first");
        return Err(Ended::new(Reason::RecordsGone, said));
    }
    if end < next {
        let said = format!("{at} ends at {end}, before the resume token's {next}: it lost records");
        return Err(Ended::new(Reason::BeyondEnd, said));
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use bus::Offset;

    use super::*;

    fn place(positions: &[(u32, i64)]) -> TopicPlace {
        let positions = positions.iter().copied().collect();
        TopicPlace { name: "alerts".to_owned(), id: 7, positions }
    }

    fn marks(start: i64, end: i64) -> Watermarks {
        Watermarks { start: Offset(start), end: Offset(end), bytes: 0 }
    }

    #[test]
    fn the_next_record_or_a_reason() {
        let place = place(&[(0, 40)]);
        let judge = |partition, start, end| {
            go_on(&place, partition, marks(start, end)).map_err(|ended| ended.reason)
        };
        assert_eq!(judge(0, 0, 90), Ok(40));
        assert_eq!(judge(0, 40, 40), Ok(40));
        assert_eq!(judge(0, 41, 90), Err(Reason::RecordsGone), "SU-2");
        assert_eq!(judge(0, 0, 39), Err(Reason::BeyondEnd), "SU-2");
        assert_eq!(judge(1, 12, 90), Ok(12), "a partition that is new is read from its start");
    }

    #[test]
    fn another_cluster_another_topic_or_one_made_again_is_told() {
        let resume = Resume { cluster: "mill".to_owned(), topics: vec![place(&[])] };
        let judge = |cluster: &str, topics: &[(&str, u64)]| {
            let topics: Vec<(String, u64)> =
                topics.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect();
            check_resume(&resume, cluster, &topics).map_err(|ended| ended.reason)
        };
        assert_eq!(judge("mill", &[("alerts", 7)]), Ok(()));
        for (cluster, topics) in [
            ("other", &[("alerts", 7)][..]),
            ("mill", &[("alerts", 8)]),
            ("mill", &[("more", 7)]),
            ("mill", &[("alerts", 7), ("more", 9)]),
            ("mill", &[]),
        ] {
            assert_eq!(judge(cluster, topics), Err(Reason::ForeignResume), "SU-2 {topics:?}");
        }
    }
}
