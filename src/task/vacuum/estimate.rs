//! How small a table would be if it were written anew.
//!
//! PostgreSQL's own counters do not say it: dead rows are forgotten as soon as a plain VACUUM has made their space
//! reusable, and the planner's statistics are as old as the last ANALYZE. So a few hundred pages are read, spread evenly
//! over the table, and what they hold is laid out on paper: rows in pages, long values in TOAST, keys in indexes.
//!
//! What the model cannot know counts as not shrinking. An estimate may miss a gain; it should never promise one.

use sqlx::AssertSqlSafe;

use crate::postgres::{Explain, Result, Session, relations::Table};

/// A sample is this many stripes of this many pages: the pages of a stripe are read together.
const STRIPES: i64 = 200;
const STRIPE_PAGES: i64 = 4;

/// A gain below this share of the table is noise of the sample.
const NOISE: f64 = 0.05;

/// Longer values are moved to TOAST (PostgreSQL's `TOAST_TUPLE_TARGET` is 2032 bytes for a whole row) …
const LONGEST_INLINE: i64 = 2000;
/// … leaving a pointer of this size in the row …
const TOAST_POINTER: i64 = 18;
/// … and are cut into pieces of this size …
const TOAST_CHUNK: i64 = 1996;
/// … that cost this much each: row header, two columns, line pointer, and an entry in TOAST's own index.
const TOAST_CHUNK_COST: f64 = 40.0 + 23.0;

/// What the catalog says of a table.
#[derive(Clone, Debug, Default, PartialEq)]
struct Shape {
    block_size: i64,
    /// Pages of the table itself, without TOAST and indexes.
    pages: i64,
    /// TOAST with its index, in bytes.
    toast_bytes: i64,
    /// Share of each page that new rows may fill.
    fill: f64,
    columns: Vec<Column>,
    indexes: Vec<Index>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Column {
    number: i16,
    quoted: String,
    /// `attlen`: the width, or a negative number if it varies.
    length: i16,
    /// Where a value may begin: at a multiple of this many bytes.
    align: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Index {
    bytes: i64,
    fill: f64,
    /// Its columns, if it is a B-tree over plain columns and all rows: another kind is not modelled.
    columns: Option<Vec<i16>>,
}

/// What the sampled pages hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    pages: i64,
    rows: i64,
    /// Bytes in the rows, one sum for each column.
    inline_bytes: Vec<i64>,
    /// Bytes of values in TOAST, and the pieces that they are cut into.
    toast_bytes: i64,
    toast_chunks: i64,
}

/// Estimates the bytes that a table would have after VACUUM FULL, with TOAST and indexes. At most what it has now.
///
/// # Errors
/// Those of PostgreSQL; the sample reads at most [`STRIPES`] × [`STRIPE_PAGES`] pages.
pub async fn bytes_after_full(session: &mut Session, table: &Table) -> Result<i64> {
    let shape = shape(session, table).await?;
    let sample = sample(session, table, &shape).await?;
    let after = model(&shape, &sample).min(table.bytes);
    let gain = table.bytes - after;
    Ok(if (gain as f64) < NOISE * table.bytes as f64 { table.bytes } else { after })
}

async fn shape(session: &mut Session, table: &Table) -> Result<Shape> {
    const DOING: &str = "reading how a table is laid out";
    let (block_size, pages, toast_bytes, fill): (i64, i64, i64, f64) = sqlx::query_as(
        "SELECT b.size, pg_relation_size(c.oid) / b.size, \
             CASE c.reltoastrelid WHEN 0 THEN 0 ELSE pg_total_relation_size(c.reltoastrelid) END, \
             coalesce((SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'), '100')::float8 / 100 \
         FROM pg_class c, (SELECT current_setting('block_size')::int8) b (size) WHERE c.oid = $1::oid",
    )
    .bind(table.oid)
    .fetch_one(&mut session.connection)
    .await
    .explain(DOING)?;
    let columns: Vec<(i16, String, i16, i64)> = sqlx::query_as(
        "SELECT attnum, quote_ident(attname), attlen, \
             CASE attalign WHEN 'c' THEN 1 WHEN 's' THEN 2 WHEN 'i' THEN 4 ELSE 8 END::int8 \
         FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    )
    .bind(table.oid)
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)?;
    let indexes: Vec<(i64, f64, Option<Vec<i16>>)> = sqlx::query_as(
        "SELECT pg_relation_size(c.oid), \
             coalesce((SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'), '90')::float8 / 100, \
             CASE WHEN a.amname = 'btree' AND i.indexprs IS NULL AND i.indpred IS NULL THEN string_to_array(i.indkey::text, ' ')::int2[] END \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam \
         WHERE i.indrelid = $1::oid",
    )
    .bind(table.oid)
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)?;
    Ok(Shape {
        block_size,
        pages,
        toast_bytes,
        fill,
        columns: columns
            .into_iter()
            .map(|(number, quoted, length, align)| Column { number, quoted, length, align })
            .collect(),
        indexes: indexes.into_iter().map(|(bytes, fill, columns)| Index { bytes, fill, columns }).collect(),
    })
}

async fn sample(session: &mut Session, table: &Table, shape: &Shape) -> Result<Sample> {
    if shape.pages == 0 {
        return Ok(Sample { inline_bytes: vec![0; shape.columns.len()], ..Sample::default() });
    }
    let stripes = stripes(shape.pages);
    let (rows, inline_bytes, toast_bytes, toast_chunks) =
        sqlx::query_as(AssertSqlSafe(sample_sql(&table.quoted, &shape.columns, &stripes)))
            .persistent(false)
            .fetch_one(&mut session.connection)
            .await
            .explain(&format!("sampling table {}", table.name))?;
    let pages = stripes.iter().map(|(first, end)| end - first).sum();
    Ok(Sample { pages, rows, inline_bytes, toast_bytes, toast_chunks })
}

/// The first page and the end of each stripe.
fn stripes(pages: i64) -> Vec<(i64, i64)> {
    if pages <= STRIPES * STRIPE_PAGES {
        return vec![(0, pages)];
    }
    let last = pages - STRIPE_PAGES;
    (0..STRIPES).map(|stripe| stripe * last / (STRIPES - 1)).map(|first| (first, first + STRIPE_PAGES)).collect()
}

/// Reads the stripes by ranges of `ctid`, so that it is known how many pages were read (TABLESAMPLE does not say it).
/// `pg_column_size` looks at the length that is stored and fetches nothing from TOAST.
fn sample_sql(table: &str, columns: &[Column], stripes: &[(i64, i64)]) -> String {
    let mut inline = Vec::new();
    let mut toast = vec!["0".to_owned()];
    let mut chunks = vec!["0".to_owned()];
    for Column { quoted, length, .. } in columns {
        let size = format!("coalesce(pg_column_size({quoted}), 0)");
        if *length == -1 {
            let long = format!("{size} > {LONGEST_INLINE}");
            inline.push(format!("coalesce(sum(CASE WHEN {long} THEN {TOAST_POINTER} ELSE {size} END), 0)::int8"));
            toast.push(format!("CASE WHEN {long} THEN {size} ELSE 0 END"));
            chunks.push(format!("CASE WHEN {long} THEN ({size} + {TOAST_CHUNK} - 1) / {TOAST_CHUNK} ELSE 0 END"));
        } else {
            inline.push(format!("coalesce(sum({size}), 0)::int8"));
        }
    }
    let names = columns.iter().map(|column| column.quoted.as_str()).collect::<Vec<_>>().join(", ");
    let reads = stripes
        .iter()
        .map(|(first, end)| {
            format!("SELECT {names} FROM ONLY {table} WHERE ctid >= '({first},0)' AND ctid < '({end},0)'")
        })
        .collect::<Vec<_>>()
        .join(" UNION ALL ");
    format!(
        "SELECT count(*), ARRAY[{}]::int8[], coalesce(sum({}), 0)::int8, coalesce(sum({}), 0)::int8 FROM ({reads}) s",
        inline.join(", "),
        toast.join(" + "),
        chunks.join(" + ")
    )
}

/// Lays the sampled rows out on paper, for the whole table.
fn model(shape: &Shape, sample: &Sample) -> i64 {
    let block = shape.block_size as f64;
    let scale = if sample.pages == 0 { 0.0 } else { shape.pages as f64 / sample.pages as f64 };
    let rows = sample.rows as f64 * scale;
    let average = |bytes: i64| if sample.rows == 0 { 0.0 } else { bytes as f64 / sample.rows as f64 };

    // A row: its header, its values, what aligns them, and what makes its length a multiple of 8.
    let row = 24.0 + sample.inline_bytes.iter().copied().map(average).sum::<f64>() + padding(&shape.columns) + 4.0;
    // A page: its header, and at its end on average half a row that does not fit any more.
    let rows_per_page = ((block * shape.fill - 24.0 - row / 2.0) / (row + 4.0)).max(1.0);
    let heap = (rows / rows_per_page).ceil() * block;

    let toast = (sample.toast_bytes as f64 + sample.toast_chunks as f64 * TOAST_CHUNK_COST) * scale * 1.02;
    let toast = toast.min(shape.toast_bytes as f64);

    let index = |index: &Index| {
        let Some(columns) = &index.columns else { return index.bytes as f64 };
        let key: f64 = columns.iter().map(|number| width(*number, shape, sample)).sum();
        let entry = (key / 8.0).ceil() * 8.0 + 8.0 + 4.0;
        let leaves = rows * entry / ((block - 40.0) * index.fill);
        // The first page describes the index; 1 % of the pages are above the leaves.
        ((1.0 + (leaves * 1.01).ceil()) * block).min(index.bytes as f64)
    };
    (heap + toast + shape.indexes.iter().map(index).sum::<f64>()) as i64
}

/// Bytes that stand between values on average: a value of fixed width behind one of any width begins at its alignment.
fn padding(columns: &[Column]) -> f64 {
    columns
        .windows(2)
        .filter(|pair| pair[0].length < 0 && pair[1].length > 0)
        .map(|pair| (pair[1].align - 1) as f64 / 2.0)
        .sum()
}

/// The average width of a column in an index.
fn width(number: i16, shape: &Shape, sample: &Sample) -> f64 {
    let position = shape.columns.iter().position(|column| column.number == number);
    match position.and_then(|position| sample.inline_bytes.get(position)) {
        Some(bytes) if sample.rows > 0 => *bytes as f64 / sample.rows as f64,
        _ => 8.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            block_size: 8192,
            pages: 1000,
            fill: 1.0,
            columns: vec![
                Column { number: 1, quoted: "id".to_owned(), length: 8, align: 8 },
                Column { number: 2, quoted: "body".to_owned(), length: -1, align: 4 },
            ],
            indexes: vec![Index { bytes: 1 << 20, fill: 0.9, columns: Some(vec![1]) }],
            ..Shape::default()
        }
    }

    fn rows(rows: i64) -> Sample {
        Sample { pages: 100, rows, inline_bytes: vec![rows * 8, rows * 100], ..Sample::default() }
    }

    #[test]
    fn a_full_table_stays_and_a_half_empty_one_is_halved() {
        // 136 bytes a row and 4 for its pointer: 58 rows a page.
        let heap = |sample: &Sample| model(&Shape { indexes: vec![], ..shape() }, sample) / 8192;
        assert!((980..=1020).contains(&heap(&rows(5800))), "{}", heap(&rows(5800)));
        assert!((490..=510).contains(&heap(&rows(2900))), "{}", heap(&rows(2900)));
        assert_eq!(heap(&rows(0)), 0);
    }

    #[test]
    fn an_index_shrinks_with_its_rows_and_never_grows() {
        let index = |sample: &Sample| model(&shape(), sample) - model(&Shape { indexes: vec![], ..shape() }, sample);
        assert_eq!(index(&rows(5800)), 1 << 20, "the estimate is above the size that it has");
        // 2,900 rows of 20 bytes: 8 pages at 90 %.
        assert_eq!(index(&rows(290)) / 8192, 9);
    }

    #[test]
    fn an_index_that_is_not_modelled_counts_as_not_shrinking() {
        let mut shape = shape();
        shape.indexes[0].columns = None;
        assert_eq!(model(&shape, &rows(0)), 1 << 20);
    }

    #[test]
    fn toast_is_counted_by_its_pieces() {
        let shape = Shape { toast_bytes: 100 << 20, indexes: vec![], ..shape() };
        let sample = Sample { toast_bytes: 1_000_000, toast_chunks: 600, ..rows(100) };
        let toast = model(&shape, &sample) - model(&shape, &rows(100));
        assert!((10_500_000..=10_700_000).contains(&toast), "{toast}");
    }

    #[test]
    fn stripes_cover_a_small_table_and_span_a_large_one() {
        assert_eq!(stripes(800), [(0, 800)]);
        let large = stripes(1_000_000);
        assert_eq!(large.len(), 200);
        assert_eq!((large[0], large[199]), ((0, 4), (999_996, 1_000_000)));
        assert!(stripes(801).windows(2).all(|pair| pair[0].1 <= pair[1].0), "stripes must not overlap");
    }
}
