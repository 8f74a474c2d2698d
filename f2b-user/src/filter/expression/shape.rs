//! What can be told of a tree without running it.

use anyhow::{Result, bail};

use super::{
    chars,
    syntax::{Assertion, Class, Item, Node},
};

/// Whether texts of different lengths match it.
pub(super) fn has_repetition(node: &Node) -> bool {
    match node {
        Node::Repeat { .. } => true,
        Node::Concat(nodes) | Node::Alternation(nodes) => nodes.iter().any(has_repetition),
        Node::Group { node, .. } | Node::Atomic(node) => has_repetition(node),
        _ => false,
    }
}

/// The only character of a class.
pub(super) fn single(class: &Class) -> Option<char> {
    match class.items[..] {
        [Item::Range(low, high)] if low == high && !class.negated => {
            let has_cases = class.ignore_case && (low.is_alphabetic() || !low.is_ascii());
            (!has_cases).then_some(low)
        }
        _ => None,
    }
}

/// How many characters a look-behind looks at.
pub(super) fn width(node: &Node) -> Result<usize> {
    const NOT_FIXED: &str = "look-behind requires fixed-width pattern";
    let same = |mut widths: Vec<usize>| {
        widths.dedup();
        match widths[..] {
            [width] => Ok(width),
            _ => bail!(NOT_FIXED),
        }
    };
    match node {
        Node::Empty | Node::Look { .. } | Node::Assertion(_) | Node::Way(_) => Ok(0),
        Node::Class(_) => Ok(1),
        Node::Concat(nodes) => nodes.iter().map(width).sum(),
        Node::Alternation(nodes) => same(nodes.iter().map(width).collect::<Result<_>>()?),
        Node::Repeat { node, min, max, .. } if *max == Some(*min) => Ok(width(node)? * *min as usize),
        Node::Group { node, .. } | Node::Atomic(node) => width(node),
        Node::Conditional { yes, no, .. } => same(vec![width(yes)?, width(no)?]),
        Node::Repeat { .. } | Node::BackReference { .. } => bail!(NOT_FIXED),
    }
}

/// Whether a match can only begin where the text does.
pub(super) fn is_anchored(node: &Node) -> bool {
    match node {
        Node::Assertion(Assertion::Start) => true,
        Node::Concat(nodes) => {
            let first =
                nodes.iter().find(|node| !matches!(node, Node::Empty | Node::Look { .. } | Node::Way(_)));
            first.is_some_and(is_anchored)
        }
        Node::Alternation(nodes) => nodes.iter().all(is_anchored),
        Node::Group { node, .. } | Node::Atomic(node) => is_anchored(node),
        Node::Repeat { node, min, .. } => *min > 0 && is_anchored(node),
        _ => false,
    }
}

/// Whether a match can be empty.
pub(super) fn may_be_empty(node: &Node) -> bool {
    first(node).may_be_empty
}

/// What a node can begin with.
pub(super) struct First {
    pub(super) ascii: u128,
    pub(super) may_be_empty: bool,
}

/// What a match can begin with.
pub(super) fn first(node: &Node) -> First {
    let nothing = First { ascii: 0, may_be_empty: true };
    let either = |a: First, b: First| First {
        ascii: a.ascii | b.ascii,
        may_be_empty: a.may_be_empty || b.may_be_empty,
    };
    match node {
        Node::Empty | Node::Look { .. } | Node::Assertion(_) | Node::Way(_) => nothing,
        Node::Class(class) => First { ascii: chars::ascii(class), may_be_empty: false },
        Node::Concat(nodes) => {
            let mut all = nothing;
            for node in nodes {
                let next = first(node);
                all.ascii |= next.ascii;
                if !next.may_be_empty {
                    return First { may_be_empty: false, ..all };
                }
            }
            all
        }
        Node::Alternation(nodes) => nodes.iter().map(first).reduce(either).unwrap_or(nothing),
        Node::Repeat { node, min, .. } => {
            let inner = first(node);
            First { may_be_empty: *min == 0 || inner.may_be_empty, ..inner }
        }
        Node::Group { node, .. } | Node::Atomic(node) => first(node),
        Node::BackReference { .. } => First { ascii: u128::MAX, may_be_empty: true },
        Node::Conditional { yes, no, .. } => either(first(yes), first(no)),
    }
}
