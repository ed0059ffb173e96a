//! In which order the rows of a table are stored. Pure.
//!
//! A table's file is nearly in the order in which its rows came. But PostgreSQL also puts new rows into the gaps of old pages,
//! one here and one there, and each would change a piece of the backup that is stored already. Such a row is known by its
//! transaction: it is far younger than rows that follow it. It is stored behind the others, with the rows that came last.

use std::collections::VecDeque;

/// So many rows that follow are looked at: those of a page or two.
const NEIGHBOURS: usize = 128;

/// Rows under way take no more than this, in bytes. Ordinary rows do not come near it: 128 events of the size that Matrix allows
/// at most take 8 MiB.
pub const UNDER_WAY: usize = 8 << 20;

/// A row that waits has an entry of its own beside its bytes. No more of them wait.
const WAITING_ROWS: usize = 1 << 20;

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
    waiting: Waiting,
}

/// Rows that wait for the end of their table.
#[derive(Default)]
pub struct Waiting {
    bytes: Vec<u8>,
    /// Age, start and length. Four bytes each are enough: less than 4 GiB may wait.
    rows: Vec<(Age, u32, u32)>,
}

impl Order {
    /// A table of which so many bytes may wait.
    pub fn new(may_wait: usize) -> Self {
        Self { may_wait, ..Self::default() }
    }

    /// One more row of the table. `store` gets those whose place is known.
    pub fn row(&mut self, age: Age, row: &[u8], mut store: impl FnMut(&[u8])) {
        while !self.rows.is_empty() && self.bytes.len() - self.start + row.len() > UNDER_WAY {
            self.first(&mut store);
        }
        self.bytes.extend_from_slice(row);
        self.rows.push_back((age, row.len()));
        self.comes(age);
        if self.rows.len() > NEIGHBOURS {
            self.first(store);
        }
    }

    /// A row of this age comes that is too long to be held. `store` gets all that stand before it.
    pub fn before_long(&mut self, age: Age, store: impl FnMut(&[u8])) {
        self.comes(age);
        self.came -= 1;
        self.all(store);
        self.came += 1;
        self.oldest.clear();
    }

    /// The end of the table: `store` gets the rest. What is left are those that wait.
    pub fn end(mut self, store: impl FnMut(&[u8])) -> Waiting {
        self.all(store);
        self.waiting.rows.sort_by_key(|(age, _, _)| std::cmp::Reverse(*age));
        self.waiting
    }

    /// Notes the age of the next row.
    fn comes(&mut self, age: Age) {
        while self.oldest.back().is_some_and(|(_, last)| *last <= age) {
            self.oldest.pop_back();
        }
        self.oldest.push_back((self.came, age));
        self.came += 1;
    }

    fn all(&mut self, mut store: impl FnMut(&[u8])) {
        while !self.rows.is_empty() {
            self.first(&mut store);
        }
    }

    fn first(&mut self, mut store: impl FnMut(&[u8])) {
        let number = self.came - self.rows.len() as u64;
        let Some((age, length)) = self.rows.pop_front() else { return };
        while self.oldest.front().is_some_and(|(of, _)| *of <= number) {
            self.oldest.pop_front();
        }
        let row = &self.bytes[self.start..self.start + length];
        let is_late = self.oldest.front().is_some_and(|(_, oldest)| oldest.saturating_sub(age) > SIDE_BY_SIDE);
        if !is_late || !self.waiting.takes(age, row, self.may_wait) {
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

impl Waiting {
    fn takes(&mut self, age: Age, row: &[u8], may_wait: usize) -> bool {
        if self.bytes.len() + row.len() > may_wait || self.rows.len() >= WAITING_ROWS {
            return false;
        }
        let (Ok(start), Ok(length)) = (u32::try_from(self.bytes.len()), u32::try_from(row.len())) else { return false };
        self.rows.push((age, start, length));
        self.bytes.extend_from_slice(row);
        true
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Appends them, the oldest first.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(self.bytes.len());
        for (_, start, length) in &self.rows {
            let start = *start as usize;
            bytes.extend_from_slice(&self.bytes[start..start + *length as usize]);
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
        let mut waited = Vec::new();
        order.end(&mut store).append_to(&mut waited);
        let waited = String::from_utf8(waited).unwrap();
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

    /// What the order did before it had a bound in bytes: it always looked at 128 rows.
    fn unbounded(rows: &[(Age, String)]) -> Vec<String> {
        let is_late = |at: usize| {
            let following = &rows[at + 1..rows.len().min(at + 1 + NEIGHBOURS)];
            following
                .iter()
                .map(|(age, _)| *age)
                .max()
                .is_some_and(|oldest| oldest.saturating_sub(rows[at].0) > SIDE_BY_SIDE)
        };
        let (mut stored, mut waiting, mut waits) = (Vec::new(), Vec::new(), 0);
        for (at, (age, row)) in rows.iter().enumerate() {
            if is_late(at) && waits + row.len() <= WAITING {
                waits += row.len();
                waiting.push((*age, row.clone()));
            } else {
                stored.push(row.clone());
            }
        }
        waiting.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        stored.into_iter().chain(waiting.into_iter().map(|(_, row)| row)).collect()
    }

    #[test]
    fn what_is_under_way_is_bounded_by_bytes() {
        let (mut order, mut stored) = (Order::new(WAITING), 0);
        let row = vec![b'x'; 1 << 20];
        for came in 1..=300 {
            order.row(1, &row, |_| stored += 1);
            assert!(order.bytes.len() <= 2 * UNDER_WAY && order.bytes.capacity() <= 4 * UNDER_WAY);
            assert!((came - stored) << 20 <= UNDER_WAY, "{stored} of {came} are stored");
        }
        assert!(stored >= 292);
        order.end(|_| stored += 1);
        assert_eq!(stored, 300);
    }

    #[test]
    fn no_more_than_a_million_rows_wait_however_short() {
        let (mut order, mut stored) = (Order::new(usize::MAX), 0_usize);
        for _ in 0..WAITING_ROWS + 1000 {
            order.row(1, b"\n", |_| stored += 1);
            order.row(900_000, b"\n", |_| stored += 1);
        }
        let waiting = order.end(|_| stored += 1);
        assert_eq!(waiting.rows.len(), WAITING_ROWS);
        assert_eq!(stored, WAITING_ROWS + 2000);
    }

    #[test]
    fn a_row_before_a_long_one_is_late_by_its_age() {
        let (mut order, mut stored) = (Order::new(WAITING), Vec::new());
        order.row(5, b"late\n", |row| stored.push(row.to_vec()));
        order.row(900_000, b"old\n", |row| stored.push(row.to_vec()));
        order.row(5, b"later\n", |row| stored.push(row.to_vec()));
        order.before_long(900_000, |row| stored.push(row.to_vec()));
        assert_eq!(stored, [b"old\n".to_vec()]);
        order.row(5, b"end\n", |row| stored.push(row.to_vec()));
        let mut waited = Vec::new();
        order.end(|row| stored.push(row.to_vec())).append_to(&mut waited);
        assert_eq!((stored.len(), waited.as_slice()), (2, &b"late\nlater\n"[..]));
    }

    proptest! {
        #[test]
        fn ordinary_rows_are_stored_as_they_were_before_there_was_a_bound(
            ages in prop::collection::vec(prop_oneof![any::<Age>(), 0_u32..20_000], 0..600)
        ) {
            let table = rows(ages);
            prop_assert_eq!(ordered(&table), unbounded(&table));
        }

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
