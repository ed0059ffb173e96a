//! In which order the rows of a table are stored. Pure.
//!
//! A table's file is nearly in the order in which its rows came. But PostgreSQL also puts new rows into the gaps of old pages,
//! one here and one there, and each would change a piece of the backup that is stored already. Such a row is known by its
//! transaction: it is far younger than rows that follow it. It is stored behind the others, with the rows that came last.

use std::collections::VecDeque;

/// So many rows that follow are looked at: those of a page or two.
const NEIGHBOURS: usize = 128;

/// Sessions that write at the same time fill pages side by side: a row may be as many transactions younger than its
/// neighbours and yet be where it belongs.
const SIDE_BY_SIDE: u32 = 4096;

/// Transactions since a row was written. Where rows are older than two thousand million transactions it may be wrong: then some
/// are stored in other places, and no more.
pub type Age = u32;

/// Rows under way, each with the end of its line.
#[derive(Default)]
pub struct Order {
    /// Rows that may wait for the end, in bytes. Others stay in their gaps.
    may_wait: usize,
    /// The last rows that came, one after the other, from `start`.
    bytes: Vec<u8>,
    start: usize,
    /// Their ages and lengths.
    rows: VecDeque<(Age, usize)>,
    /// Of the rows that follow the first: those that no later one is older than. Their ages fall; the number says which row of
    /// the table it is.
    oldest: VecDeque<(u64, Age)>,
    came: u64,
    waiting: Vec<u8>,
    waiting_rows: Vec<(Age, usize, usize)>,
}

impl Order {
    /// A table of which so many bytes may wait.
    pub fn new(may_wait: usize) -> Self {
        Self { may_wait, ..Self::default() }
    }

    /// One more row of the table. `store` gets those whose place is known.
    pub fn row(&mut self, age: Age, row: &[u8], store: impl FnMut(&[u8])) {
        self.bytes.extend_from_slice(row);
        self.rows.push_back((age, row.len()));
        while self.oldest.back().is_some_and(|(_, last)| *last <= age) {
            self.oldest.pop_back();
        }
        self.oldest.push_back((self.came, age));
        self.came += 1;
        if self.rows.len() > NEIGHBOURS {
            self.first(store);
        }
    }

    /// The end of the table: the rest, and those that waited, the oldest first.
    pub fn end(mut self, mut store: impl FnMut(&[u8])) -> Vec<u8> {
        while !self.rows.is_empty() {
            self.first(&mut store);
        }
        self.waiting_rows.sort_by_key(|(age, _, _)| std::cmp::Reverse(*age));
        let waited = self.waiting_rows.iter().flat_map(|(_, start, length)| &self.waiting[*start..start + length]);
        waited.copied().collect()
    }

    fn first(&mut self, mut store: impl FnMut(&[u8])) {
        let number = self.came - self.rows.len() as u64;
        let Some((age, length)) = self.rows.pop_front() else { return };
        while self.oldest.front().is_some_and(|(of, _)| *of <= number) {
            self.oldest.pop_front();
        }
        let row = &self.bytes[self.start..self.start + length];
        let is_late = self.oldest.front().is_some_and(|(_, oldest)| oldest.saturating_sub(age) > SIDE_BY_SIDE);
        if is_late && self.waiting.len() + length <= self.may_wait {
            self.waiting_rows.push((age, self.waiting.len(), length));
            self.waiting.extend_from_slice(row);
        } else {
            store(row);
        }
        self.start += length;
        // Not for each row: the rest moves.
        if self.start > self.bytes.len() / 2 && self.start > 1 << 20 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAITING: usize = 1000;

    fn ordered(rows: &[(Age, String)]) -> Vec<String> {
        let (mut order, mut stored) = (Order::new(WAITING), Vec::new());
        let mut store = |row: &[u8]| stored.push(String::from_utf8(row.to_vec()).unwrap());
        for (age, row) in rows {
            order.row(*age, row.as_bytes(), &mut store);
        }
        let waited = String::from_utf8(order.end(&mut store)).unwrap();
        stored.into_iter().chain(waited.split_inclusive('\n').map(str::to_owned)).collect()
    }

    fn rows(ages: impl IntoIterator<Item = Age>) -> Vec<(Age, String)> {
        ages.into_iter().enumerate().map(|(index, age)| (age, format!("{index}\n"))).collect()
    }

    #[test]
    fn a_row_that_came_into_a_gap_goes_behind_the_others() {
        let mut table = rows((0..1000).map(|index| 2_000_000 - index));
        let before = ordered(&table);
        assert_eq!(before.len(), 1000);
        table.insert(700, (20, "yesterday\n".to_owned()));
        table.insert(100, (10, "today\n".to_owned()));
        table.push((5, "at the end\n".to_owned()));
        let added = ["at the end\n", "yesterday\n", "today\n"].map(str::to_owned);
        assert_eq!(ordered(&table), [before, added.to_vec()].concat());
    }

    #[test]
    fn rows_that_were_written_side_by_side_stay_where_they_are() {
        let table = rows((0..500).map(|index| 100_000 - index * 20 - (index % 2) * 3000));
        assert_eq!(ordered(&table), table.iter().map(|(_, row)| row.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_too_much_to_wait_stays_in_its_gap() {
        let (large, small) = (format!("{}\n", "x".repeat(WAITING - 10)), "y".repeat(20));
        let table: Vec<_> =
            [(1, large.clone()), (2, "late\n".to_owned()), (3, small.clone()), (900_000, "old\n".to_owned())].into();
        assert_eq!(ordered(&table), [small, "old\n".to_owned(), "late\n".to_owned(), large]);
    }

    proptest! {
        #[test]
        fn no_row_is_lost_or_doubled(ages in prop::collection::vec(any::<Age>(), 0..600)) {
            let table = rows(ages);
            let mut stored = ordered(&table);
            let mut all: Vec<String> = table.into_iter().map(|(_, row)| row).collect();
            stored.sort();
            all.sort();
            prop_assert_eq!(stored, all);
        }
    }
}
