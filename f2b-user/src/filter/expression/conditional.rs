//! A conditional asks whether a group took part: `(a)?b(?(1)c|d)` is `(a)bc|bd`. Written so, each way knows what comes
//! next, and the machine need not step back into what the other one would have allowed. The ways are numbered, so that
//! automata can tell which of them cannot match.

use super::syntax::{Node, Repetition};

/// How many conditions are decided for one place, and how many nodes may come of it: each condition can double what
/// stands behind its group.
const MAX_DECISIONS: u32 = 4;
const MAX_NODES: usize = 5_000;

/// `node` with the conditionals decided whose group is plainly there or not. The order in which ways are tried stays.
pub(super) fn decided(node: &Node) -> Node {
    let mut decided = decide(node.clone(), MAX_DECISIONS);
    if count(&decided) > MAX_NODES {
        return node.clone();
    }
    number(&mut decided, &mut 0);
    decided
}

/// Numbers the ways of `node`, as [`ways_of`] lists them.
fn number(node: &mut Node, next: &mut u32) {
    let Some(branches) = branches_mut(node) else {
        *next += 1;
        return;
    };
    for branch in branches {
        number(branch, next);
        if let Node::Concat(nodes) = branch
            && let Some(Node::Way(last)) = nodes.first_mut()
        {
            *last = *next - 1;
        }
    }
}

/// Every way in which `node` can match, written out.
pub(super) fn ways_of(node: &Node) -> Vec<Node> {
    let mut node = node.clone();
    let Some(branches) = branches_mut(&mut node) else { return vec![node] };
    let ways: Vec<_> = branches.iter().flat_map(ways_of).collect();
    let Node::Concat(mut before) = node else { return ways };
    before.pop();
    let whole = |way| Node::Concat(before.iter().cloned().chain([way]).collect());
    ways.into_iter().map(whole).collect()
}

/// What was decided at the end of `node`.
fn branches_mut(node: &mut Node) -> Option<&mut Vec<Node>> {
    let Node::Concat(nodes) = node else { return None };
    let Some(Node::Alternation(branches)) = nodes.last_mut() else { return None };
    let is_decided =
        |branch: &Node| matches!(branch, Node::Concat(nodes) if matches!(nodes[..], [Node::Way(_), ..]));
    branches.iter().all(is_decided).then_some(branches)
}

fn decide(node: Node, left: u32) -> Node {
    let Some(fewer) = left.checked_sub(1) else { return node };
    let decide_same = |node| decide(node, left);
    let Node::Concat(nodes) = node else { return within(node, decide_same) };
    for at in 0..nodes.len() {
        let behind = &nodes[at + 1..];
        let mut asked = Vec::new();
        behind.iter().for_each(|node| conditions(node, &mut asked));
        let Some((group, ways)) = asked.into_iter().find_map(|group| Some((group, ways(&nodes[at], group)?)))
        else {
            continue;
        };
        let mut before: Vec<_> = nodes[..at].iter().cloned().map(decide_same).collect();
        let branches = ways.into_iter().map(|(there, node)| {
            let rest = behind.iter().map(|node| assume(node.clone(), group, there));
            let way = decide(Node::Concat(std::iter::once(node).chain(rest).collect()), fewer);
            let Node::Concat(mut nodes) = way else { return way };
            nodes.insert(0, Node::Way(u32::MAX));
            Node::Concat(nodes)
        });
        before.push(Node::Alternation(branches.collect()));
        return Node::Concat(before);
    }
    Node::Concat(nodes.into_iter().map(decide_same).collect())
}

/// The ways in which `node` can match, in their order, each with whether the group takes part in it. `None` where that
/// is not plain, or where there is nothing to decide.
fn ways(node: &Node, group: usize) -> Option<Vec<(bool, Node)>> {
    match node {
        Node::Repeat { node, min: 0, max: Some(1), kind } if always_has(node, group) => {
            let there = (true, Node::clone(node));
            let absent = (false, Node::Empty);
            match kind {
                Repetition::Greedy => Some(vec![there, absent]),
                Repetition::Lazy => Some(vec![absent, there]),
                Repetition::Possessive => None,
            }
        }
        Node::Alternation(branches) => {
            let way = |branch: &Node| {
                let there = always_has(branch, group);
                (there || !has(branch, group)).then(|| (there, branch.clone()))
            };
            let ways: Vec<_> = branches.iter().map(way).collect::<Option<_>>()?;
            ways.iter().any(|(there, _)| *there).then_some(ways)
        }
        Node::Group { index, node } if *index != group => {
            let wrap = |(there, node)| (there, Node::Group { index: *index, node: Box::new(node) });
            Some(ways(node, group)?.into_iter().map(wrap).collect())
        }
        _ => None,
    }
}

/// Whether the group takes part whenever `node` matches.
fn always_has(node: &Node, group: usize) -> bool {
    match node {
        Node::Group { index, node } => *index == group || always_has(node, group),
        Node::Concat(nodes) => nodes.iter().any(|node| always_has(node, group)),
        _ => false,
    }
}

fn has(node: &Node, group: usize) -> bool {
    matches!(node, Node::Group { index, .. } if *index == group)
        || children(node).any(|node| has(node, group))
}

/// The groups that conditionals in `node` ask about.
fn conditions(node: &Node, found: &mut Vec<usize>) {
    if let Node::Conditional { index, .. } = node {
        found.push(*index);
    }
    children(node).for_each(|node| conditions(node, found));
}

/// `node` where the group is known to have taken part, or not.
fn assume(node: Node, group: usize, there: bool) -> Node {
    match node {
        Node::Conditional { index, yes, no } if index == group => {
            assume(if there { *yes } else { *no }, group, there)
        }
        other => within(other, |node| assume(node, group, there)),
    }
}

fn count(node: &Node) -> usize {
    1 + children(node).map(count).sum::<usize>()
}

fn children(node: &Node) -> Box<dyn Iterator<Item = &Node> + '_> {
    match node {
        Node::Concat(nodes) | Node::Alternation(nodes) => Box::new(nodes.iter()),
        Node::Repeat { node, .. }
        | Node::Group { node, .. }
        | Node::Atomic(node)
        | Node::Look { node, .. } => Box::new(std::iter::once(&**node)),
        Node::Conditional { yes, no, .. } => Box::new([&**yes, &**no].into_iter()),
        Node::Empty | Node::Class(_) | Node::BackReference { .. } | Node::Assertion(_) | Node::Way(_) => {
            Box::new(std::iter::empty())
        }
    }
}

/// `node` with `change` done to its children.
fn within(node: Node, change: impl Fn(Node) -> Node) -> Node {
    let boxed = |node: Box<Node>| Box::new(change(*node));
    match node {
        Node::Concat(nodes) => Node::Concat(nodes.into_iter().map(change).collect()),
        Node::Alternation(nodes) => Node::Alternation(nodes.into_iter().map(change).collect()),
        Node::Repeat { node, min, max, kind } => Node::Repeat { node: boxed(node), min, max, kind },
        Node::Group { index, node } => Node::Group { index, node: boxed(node) },
        Node::Atomic(node) => Node::Atomic(boxed(node)),
        Node::Look { behind, negative, node } => Node::Look { behind, negative, node: boxed(node) },
        Node::Conditional { index, yes, no } => Node::Conditional { index, yes: boxed(yes), no: boxed(no) },
        Node::Empty | Node::Class(_) | Node::BackReference { .. } | Node::Assertion(_) | Node::Way(_) => node,
    }
}
