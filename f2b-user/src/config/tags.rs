//! `<tag>` inside options → the option of that name, again and again (`helpers.py`, `substituteRecursiveTags`).
//! A tag that is no option stays: `<HOST>`, `<ip>`, or a word that the shell reads.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use anyhow::{Context as _, Result, bail};

use super::dialect::{Assembly, Budget, MAX_VALUE, Options, Value};

/// How often one option may take in one tag before it counts as endless (`MAX_TAG_REPLACE_COUNT`).
const MAX_REPLACED: u32 = 25;

/// Replaces the tags in all `options` but `ignored` ones, which stay tags in the others, too. `more` knows tags that
/// are not among the options.
///
/// # Errors
/// A tag that leads back to itself: fail2ban refuses its whole configuration then. More work than `budget` has left.
pub(super) fn substitute(
    options: &mut Options,
    ignored: &HashSet<String>,
    budget: &Budget,
    mut more: impl FnMut(&str) -> Result<Option<Value>>,
) -> Result<()> {
    let names: Vec<String> = options.keys().filter(|name| !ignored.contains(*name)).cloned().collect();
    let mut counts: HashMap<&str, HashMap<String, u32>> = HashMap::new();
    loop {
        let mut again = false;
        for name in &names {
            let Some(value) = options.get(name).filter(|value| value.text.contains('<')) else { continue };
            let mut value = value.clone();
            let mut count = counts.get(name.as_str()).cloned().unwrap_or_default();
            let mut changed = false;
            let mut at = 0;
            while let Some((start, end)) = find(&value.text, at) {
                let tag = value.text[start + 1..end - 1].to_owned();
                if ignored.contains(&tag) {
                    at = end;
                    continue;
                }
                if tag == *name || count.get(&tag).is_some_and(|count| *count > MAX_REPLACED) {
                    bail!("{}: {name} leads through <{tag}> back to itself", value.place);
                }
                let replacement = match options.get(&tag) {
                    Some(value) => Some(Cow::Borrowed(value)),
                    None => more(&tag)?.map(Cow::Owned),
                };
                let Some(replacement) = replacement else {
                    at = end;
                    continue;
                };
                value = replace(&value, &tag, &replacement, budget)
                    .with_context(|| format!("{}: {name}", value.place))?;
                changed = true;
                *count.entry(tag).or_default() += 1;
                at = start;
            }
            if changed {
                if find(&value.text, 0).is_some() {
                    counts.insert(name, count);
                    again = true;
                }
                options.insert(name.clone(), value);
            }
        }
        if !again {
            return Ok(());
        }
    }
}

/// `value` with every `<tag>` replaced.
fn replace(value: &Value, tag: &str, replacement: &Value, budget: &Budget) -> Result<Value> {
    let tagged = format!("<{tag}>");
    let mut replaced = Assembly::new(&value.place);
    let mut from = 0;
    for (at, _) in value.text.match_indices(&tagged) {
        replaced.push(value, from, at, 0);
        if replaced.len() + replacement.text.len() > MAX_VALUE {
            bail!("it grows through <{tag}> to more than {MAX_VALUE} bytes");
        }
        replaced.push(replacement, 0, replacement.text.len(), 1);
        from = at + tagged.len();
    }
    replaced.push(value, from, value.text.len(), 0);
    budget.spend(value.text.len() + replaced.len())?;
    Ok(replaced.finish())
}

/// Where the next `<tag>` starts and ends, from `at`.
fn find(text: &str, at: usize) -> Option<(usize, usize)> {
    let mut open = None;
    for (index, byte) in text.bytes().enumerate().skip(at) {
        match (byte, open) {
            (b'<', _) => open = Some(index),
            (b'>', Some(start)) if index > start + 1 => return Some((start, index + 1)),
            (b'>' | b' ', _) => open = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dialect::Place;

    fn options(pairs: &[(&str, &str)]) -> Options {
        let value = |text: &str| Value::new(text, &Place::outside("x:1"));
        pairs.iter().map(|(option, text)| ((*option).to_owned(), value(text))).collect()
    }

    fn run(pairs: &[(&str, &str)], ignored: &[&str]) -> Result<Vec<String>> {
        let mut options = options(pairs);
        let ignored = ignored.iter().map(|&name| name.to_owned()).collect();
        let more = Value::new("m", &Place::outside("x:2"));
        substitute(&mut options, &ignored, &Budget::default(), |tag| {
            Ok((tag == "more").then(|| more.clone()))
        })?;
        Ok(options.into_values().map(|value| value.text).collect())
    }

    #[test]
    fn tags_are_replaced_also_inside_of_tags() {
        let pairs = [("mode", "b"), ("re-b", "<more> <HOST> <x y>"), ("failregex", "^<re-<mode>>$<<")];
        assert_eq!(run(&pairs, &[]).unwrap()[2], "^m <HOST> <x y>$<<");
        assert_eq!(run(&[("a", "1"), ("b", "<a>"), ("c", "<b>")], &["a"]).unwrap()[2], "<a>");
        assert_eq!(run(&[("a", "<<b>"), ("b", "<>c")], &[]).unwrap()[0], "<<>c");
    }

    #[test]
    fn circles_and_growth_come_to_an_end() {
        let circle = run(&[("a", "<b>"), ("b", "<a>")], &[]).unwrap_err().to_string();
        assert_eq!(circle, "x:1: a leads through <a> back to itself");
        let ten = |name: &str| format!("<{name}>").repeat(10);
        let pairs = [("h", ten("g")), ("g", ten("f")), ("f", ten("e")), ("e", ten("d")), ("d", ten("c"))];
        let mut pairs: Vec<_> = pairs.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let long = "x".repeat(1000);
        pairs.push(("c", &long));
        assert!(format!("{:#}", run(&pairs, &[]).unwrap_err()).contains("grows through"));
        assert!(run(&[("a", "<b"), ("b", ">")], &[]).is_ok());
        assert!(run(&[("a", "<b<c>"), ("c", "<b<c")], &[]).is_ok());
    }
}
