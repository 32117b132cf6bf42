//! A pure core: which conditions can be met together in one part of an event.
//!
//! An array of objects gives a choice: fields that are matched have to come from the same element.
//! A *world* is one way to choose in every array of a part: the conditions that are met in it, and
//! the fields that are there although they may have to be absent. Parts are combined from the
//! leaves up, and a world that another one makes useless is forgotten, so that the work grows with
//! the event, and the number of worlds only with the pattern.

/// One way to choose an element in every array. A bit is a condition of the filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct World {
    /// Met.
    pub(crate) met: u64,
    /// There, as far as conditions of absence care.
    pub(crate) there: u64,
}

impl World {
    const fn and(self, other: Self) -> Self {
        Self { met: self.met | other.met, there: self.there | other.there }
    }

    /// Whether whatever this one leads to, `other` leads to as well.
    const fn is_useless_beside(self, other: Self) -> bool {
        self.met & !other.met == 0 && other.there & !self.there == 0
    }
}

/// All worlds of a part of an event; never none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Worlds {
    first: World,
    /// None of them useless.
    others: Vec<World>,
    /// What is there in any world.
    anywhere: u64,
    /// There were more than are kept.
    overflown: bool,
}

/// Ten conditions, met by the elements of an array in every combination, make 252 worlds.
const WORLDS_MAX: usize = 256;

impl Worlds {
    /// A part without a choice.
    pub(crate) const fn one(first: World) -> Self {
        Self { first, others: Vec::new(), anywhere: first.there, overflown: false }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = World> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// Whether nothing in it was asked for.
    fn is_nothing(&self) -> bool {
        self.others.is_empty() && self.first == World::default() && self.anywhere == 0
    }

    /// Whether there were too many worlds to keep: what was found may not be all.
    pub(crate) const fn is_overflown(&self) -> bool {
        self.overflown
    }

    /// Both parts: a choice in one leaves the choices in the other.
    pub(crate) fn join(&mut self, other: Self) {
        self.anywhere |= other.anywhere;
        self.overflown |= other.overflown;
        if self.others.is_empty() && other.others.is_empty() {
            self.first = self.first.and(other.first);
            return;
        }
        let mut all = Choices::default();
        for one in self.iter() {
            other.iter().for_each(|it| all.add(one.and(it)));
        }
        self.overflown |= all.overflown;
        self.choose(all.worlds);
    }

    fn choose(&mut self, mut worlds: Vec<World>) {
        self.first = worlds.pop().unwrap_or_default();
        self.others = worlds;
    }
}

/// Worlds of which none makes another one useless.
#[derive(Debug, Default)]
struct Choices {
    worlds: Vec<World>,
    overflown: bool,
}

impl Choices {
    fn add(&mut self, world: World) {
        if self.worlds.iter().any(|it| world.is_useless_beside(*it)) {
            return;
        }
        self.worlds.retain(|it| !it.is_useless_beside(world));
        if self.worlds.len() < WORLDS_MAX {
            self.worlds.push(world);
        } else {
            self.overflown = true;
        }
    }
}

/// An array that is being read.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    /// Values without parts: whatever else is chosen, they are there.
    plain: World,
    choices: Choices,
    anywhere: u64,
    overflown: bool,
}

impl Elements {
    pub(crate) const fn add_plain(&mut self, world: World) {
        self.plain = self.plain.and(world);
    }

    pub(crate) fn add_part(&mut self, part: &Worlds) {
        if part.is_nothing() {
            return;
        }
        self.anywhere |= part.anywhere;
        self.overflown |= part.overflown;
        part.iter().for_each(|world| self.choices.add(world));
    }

    /// The array's worlds. An element is chosen by the conditions that are met in it: for a
    /// condition of absence that comes before all of those (`before` gives their bits), nothing is
    /// chosen yet, and a field of any element is there.
    pub(crate) fn finish(self, before: &[(u64, u64)]) -> Worlds {
        let Self { plain, choices, anywhere, overflown } = self;
        let mut worlds =
            Worlds { first: plain, anywhere: plain.there | anywhere, ..Worlds::default() };
        worlds.overflown = overflown | choices.overflown;
        if choices.worlds.is_empty() {
            return worlds;
        }
        let chosen = choices.worlds.into_iter().map(|world| {
            let mut there = world.there;
            for &(bit, before) in before {
                if world.met & before == 0 {
                    there = there & !bit | anywhere & bit;
                }
            }
            plain.and(World { there, ..world })
        });
        let mut all = Choices::default();
        chosen.for_each(|world| all.add(world));
        worlds.choose(all.worlds);
        worlds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(met: u64) -> Worlds {
        Worlds::one(World { met, there: 0 })
    }

    fn met(worlds: &Worlds) -> Vec<u64> {
        let mut all: Vec<u64> = worlds.iter().map(|it| it.met).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn an_array_gives_a_choice_and_an_object_does_not() {
        let mut object = part(0b01);
        object.join(part(0b10));
        assert_eq!(met(&object), [0b11]);
        let mut array = Elements::default();
        array.add_part(&part(0b01));
        array.add_part(&part(0b10));
        array.add_part(&part(0b10));
        array.add_plain(World { met: 0b100, there: 0 });
        let mut array = array.finish(&[]);
        assert_eq!(met(&array), [0b101, 0b110]);
        array.join(part(0b10));
        assert_eq!(met(&array), [0b111], "the other choice is of no more use");
    }

    #[test]
    fn what_is_absent_depends_on_the_element_that_was_chosen_before() {
        let element = |met, there| Worlds::one(World { met, there });
        let (a, absent_b) = (0b01, 0b10);
        let mut array = Elements::default();
        array.add_part(&element(a, 0));
        array.add_part(&element(0, absent_b));
        let worlds = array.finish(&[(absent_b, a)]);
        assert_eq!(worlds.first, World { met: a, there: 0 });
        let mut array = Elements::default();
        array.add_part(&element(a, 0));
        array.add_part(&element(0, absent_b));
        let worlds = array.finish(&[(absent_b, 0)]);
        assert_eq!(worlds.first, World { met: a, there: absent_b }, "nothing comes before it");
    }

    #[test]
    fn worlds_are_bounded() {
        let mut array = Elements::default();
        for set in 0_u64..1 << 12 {
            if set.count_ones() == 6 {
                array.add_part(&part(set));
            }
        }
        let worlds = array.finish(&[]);
        assert!(worlds.is_overflown());
        assert_eq!(worlds.iter().count(), WORLDS_MAX);
    }
}
