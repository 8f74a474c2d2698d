//! Values, and where each of their lines is written.

use std::{fmt, path::Path, sync::Arc};

use super::files::BUILT_IN_DIR;

/// Where something is written, for messages: `file:line`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    file: Arc<str>,
    /// From 1; 0 where there are no lines.
    line: usize,
}

impl Place {
    pub(crate) fn new(file: &Arc<str>, line: usize) -> Self {
        Self { file: Arc::clone(file), line }
    }

    /// A place that is no file, such as `built in`.
    pub(crate) fn outside(name: &str) -> Self {
        Self { file: name.into(), line: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Value {
    pub text: String,
    /// Where the option is set.
    pub place: Place,
    /// Where each line of `text` is written: below the option, or where the value is set that it refers to.
    lines: Vec<Place>,
}

impl Value {
    /// A value whose lines all stand at one place.
    pub(crate) fn new(text: impl Into<String>, place: &Place) -> Self {
        let text = text.into();
        let lines = vec![place.clone(); line_count(&text)];
        Self { text, place: place.clone(), lines }
    }

    /// Whether it is the built-in tree that says so, and not the user.
    pub fn is_built_in(&self) -> bool {
        Path::new(&*self.place.file).starts_with(BUILT_IN_DIR)
    }

    /// The lines that are not empty, a value each.
    pub fn lines(&self) -> impl Iterator<Item = Self> {
        let lines = self.text.split('\n').zip(&self.lines).filter(|(line, _)| !line.is_empty());
        lines.map(|(line, place)| Self::new(line, place))
    }

    /// Adds a line to the end.
    pub(super) fn push_line(&mut self, line: &str, place: Place) {
        self.text.push('\n');
        self.text.push_str(line);
        self.lines.push(place);
    }

    /// Cuts the text off behind the first `length` bytes.
    pub(super) fn truncate(&mut self, length: usize) {
        self.text.truncate(length);
        self.lines.truncate(line_count(&self.text));
    }
}

fn line_count(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count() + 1
}

/// A value that is put together from its own text and from that of other values. A line's place is where its own text
/// stands; a line that is nothing but a reference stands where the value is set that it refers to.
#[derive(Debug)]
pub(crate) struct Assembly {
    value: Value,
    /// Through how many references the text came that gave the last line its place.
    depth: usize,
}

impl Assembly {
    pub(crate) fn new(place: &Place) -> Self {
        Self { value: Value::new("", place), depth: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.value.text.len()
    }

    /// Adds `value.text[start..end]`, which comes through `depth` references.
    pub(crate) fn push(&mut self, value: &Value, start: usize, end: usize, depth: usize) {
        let first = line_count(&value.text[..start]) - 1;
        for (number, piece) in value.text[start..end].split('\n').enumerate() {
            // Only hand-made values could lack one.
            let place = value.lines.get(first + number).unwrap_or(&value.place);
            if number > 0 {
                self.value.push_line("", place.clone());
            }
            let text = &self.value.text;
            let begins_line = text.is_empty() || text.ends_with('\n');
            if !piece.is_empty() && (begins_line || depth < self.depth) {
                if let Some(last) = self.value.lines.last_mut() {
                    last.clone_from(place);
                }
                self.depth = depth;
            }
            self.value.text.push_str(piece);
        }
    }

    pub(crate) fn finish(self) -> Value {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, file: &str) -> Value {
        let file = Arc::from(file);
        let mut lines = text.split('\n').enumerate();
        let mut value = Value::new(lines.next().unwrap().1, &Place::new(&file, 1));
        lines.for_each(|(number, line)| value.push_line(line, Place::new(&file, number + 1)));
        value
    }

    fn places(value: &Value) -> Vec<String> {
        value.lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_line_stands_where_its_own_text_stands() {
        let (own, other) = (value("\n+ x\n+\n+ y +", "own"), value("1\n2", "other"));
        let mut all = Assembly::new(&own.place);
        let mut from = 0;
        for (at, _) in own.text.match_indices('+') {
            all.push(&own, from, at, 0);
            all.push(&other, 0, other.text.len(), 1);
            from = at + 1;
        }
        let all = all.finish();
        assert_eq!(all.text, "\n1\n2 x\n1\n2\n1\n2 y 1\n2");
        assert_eq!(
            places(&all),
            ["own:1", "other:1", "own:2", "other:1", "other:2", "other:1", "own:4", "other:2"]
        );
    }

    #[test]
    fn lines_that_are_cut_off_take_their_places_along() {
        let mut cut = value("a\n\nb\n", "x");
        cut.truncate(2);
        assert_eq!(places(&cut), ["x:1", "x:2"]);
        assert_eq!(
            cut.lines().map(|line| (line.text, line.place.to_string())).collect::<Vec<_>>(),
            [("a".into(), "x:1".into())]
        );
    }
}
