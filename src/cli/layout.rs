//! Text in columns: folded, cut, in tables. For plain text; colour comes after.

use super::term;

/// Cuts a text to so many columns, with … where something is missing.
pub fn clip(text: &str, columns: usize) -> String {
    if term::width(text) <= columns {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |(_, wide): &(char, usize)| {
        used += wide;
        used <= columns
    };
    let mut clipped: String = term::cells(text).take_while(fits).map(|(c, _)| c).collect();
    clipped.push('…');
    clipped
}

/// In front of each row of a line but the first.
const INDENT: &str = "  ";

/// Folds a line where a terminal of so many columns shows it, with an indent on each further row: what it would wrap by
/// itself could look like another line.
pub fn hang(line: &str, columns: Option<usize>) -> Vec<String> {
    let Some(columns) = columns else { return vec![line.to_owned()] };
    let rows = fold(line, columns, columns.saturating_sub(INDENT.len()));
    rows.into_iter()
        .enumerate()
        .map(|(at, row)| if at == 0 { row } else { format!("{INDENT}{row}") })
        .collect()
}

/// Folds a line that stands below another, each row behind an indent.
pub fn below(line: &str, columns: usize) -> Vec<String> {
    let room = columns.saturating_sub(INDENT.len());
    fold(line, room, room).into_iter().map(|row| format!("{INDENT}{row}")).collect()
}

/// Folds a line into one of at most `first` columns and others of at most `rest` (at least two each), at spaces where there
/// are some.
pub fn fold(line: &str, first: usize, rest: usize) -> Vec<String> {
    let mut columns = first.max(2);
    let mut folded = Vec::new();
    let mut current = String::new();
    let mut used = 0;
    for word in line.split_inclusive(' ') {
        if used > 0 && used + term::width(word.trim_end_matches(' ')) > columns {
            folded.push(std::mem::take(&mut current));
            (used, columns) = (0, rest.max(2));
        }
        for (c, wide) in term::cells(word) {
            if used + wide > columns {
                folded.push(std::mem::take(&mut current));
                (used, columns) = (0, rest.max(2));
            }
            used += wide;
            current.push(c);
        }
    }
    folded.push(current);
    folded
}

/// Columns as wide as they need to be, two spaces apart.
pub fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let widths: [usize; N] =
        std::array::from_fn(|at| rows.iter().map(|row| term::width(&row[at])).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| term::pad(cell, width));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;

    #[test]
    fn a_line_is_folded_at_spaces_and_long_words_anywhere() {
        assert_eq!(fold("one two three", 8, 8), ["one two ", "three"]);
        assert_eq!(fold("abcdefghij", 4, 4), ["abcd", "efgh", "ij"]);
        assert_eq!(fold("abcdefghij", 6, 3), ["abcdef", "ghi", "j"]);
        assert_eq!(fold("  indented", 20, 20), ["  indented"]);
        assert_eq!(fold("你好你好", 5, 5), ["你好", "你好"]);
        assert_eq!(fold("", 5, 5), [""]);
        assert_eq!(hang("abcdefgh", Some(6)), ["abcdef", "  gh"]);
        assert_eq!(hang("abcdefgh", Some(8)), ["abcdefgh"]);
        assert_eq!(hang("abcdefgh", None), ["abcdefgh"]);
    }

    #[test]
    fn nothing_is_wider_than_it_may_be() {
        let long = "x ".repeat(100) + &" ".repeat(100) + &"你".repeat(50);
        let emoji = "❤\u{fe0f}".repeat(100) + &"1\u{fe0f}\u{20e3}".repeat(50) + &"👩\u{200d}💻".repeat(50);
        for (text, columns) in
            [long, emoji].iter().flat_map(|text| (2..40).map(move |columns| (text, columns)))
        {
            assert!(fold(text, columns, columns).iter().all(|line| line.width() <= columns), "{columns}");
            assert!(clip(text, columns).width() <= columns, "{columns}");
        }
        assert_eq!(clip("abcdef", 4), "abc…");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a".to_owned(), "b".to_owned()], ["long".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows), ["a     b", "long  c"]);
    }
}
