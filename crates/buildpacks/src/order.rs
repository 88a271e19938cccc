//! The order that detection tries: the builder's, changed by what people ask for.
//!
//! Buildpacks that are declared replace the builder's order with one group; `from=builder` among
//! them splices the builder's groups in. Without any, `pre` and `post` go around every group of the
//! builder. What the command line says replaces what the project says, list by list. Lists keep the
//! order they are written in, also `pre`.

use cofferdam_cnb::{Group, GroupElement, ModuleRef, Order};

/// One element of a list, its locator resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderItem {
    /// A module.
    Module(ModuleRef),
    /// The groups of the builder: `from=builder`.
    FromBuilder,
}

/// What one side, command line or project, asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Instead of the builder's order.
    pub buildpacks: Vec<OrderItem>,
    /// Before every group.
    pub pre: Vec<OrderItem>,
    /// After every group.
    pub post: Vec<OrderItem>,
    /// Instead of the builder's order of extensions; a project asks for none.
    pub extensions: Vec<OrderItem>,
}

/// A combination that has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The builder's groups would be multiplied.
    #[error("from=builder may be given once")]
    Twice,
    /// Only a list that replaces the order can have the builder's groups in it.
    #[error("from=builder has no meaning among {0}")]
    Misplaced(&'static str),
    /// There is nothing to detect with.
    #[error("the builder has no order and no buildpacks are given")]
    Empty,
}

/// The order of buildpacks and the order of extensions that detection tries.
///
/// # Errors
/// See [`OrderError`].
pub fn effective_order(
    builder: &Order,
    builder_extensions: &Order,
    command_line: &Asked,
    project: &Asked,
) -> Result<(Order, Order), OrderError> {
    let buildpacks = first(&command_line.buildpacks, &project.buildpacks);
    let order = if buildpacks.is_empty() {
        let pre = modules(first(&command_line.pre, &project.pre), "pre-buildpacks")?;
        let post = modules(first(&command_line.post, &project.post), "post-buildpacks")?;
        around(builder, &pre, &post)
    } else {
        declared(builder, buildpacks)?
    };
    if order.iter().all(|group| group.group.is_empty()) {
        return Err(OrderError::Empty);
    }
    let extensions = first(&command_line.extensions, &project.extensions);
    let extensions = if extensions.is_empty() {
        builder_extensions.clone()
    } else {
        vec![Group { group: modules(extensions, "extensions")? }]
    };
    Ok((order, extensions))
}

/// Whether `pre` and `post` are without effect although they are given: declared buildpacks win.
#[must_use]
pub fn ignores_pre_and_post(command_line: &Asked, project: &Asked) -> bool {
    let given = |asked: &Asked| !asked.pre.is_empty() || !asked.post.is_empty();
    !first(&command_line.buildpacks, &project.buildpacks).is_empty()
        && (given(command_line) || given(project))
}

fn first<'a>(preferred: &'a [OrderItem], other: &'a [OrderItem]) -> &'a [OrderItem] {
    if preferred.is_empty() { other } else { preferred }
}

fn element(module: &ModuleRef) -> GroupElement {
    GroupElement {
        id: module.id.to_string(),
        version: module.version.to_string(),
        ..GroupElement::default()
    }
}

fn modules(items: &[OrderItem], list: &'static str) -> Result<Vec<GroupElement>, OrderError> {
    let module = |item: &OrderItem| match item {
        OrderItem::Module(module) => Ok(element(module)),
        OrderItem::FromBuilder => Err(OrderError::Misplaced(list)),
    };
    items.iter().map(module).collect()
}

fn declared(builder: &Order, items: &[OrderItem]) -> Result<Order, OrderError> {
    let mut parts = items.split(|item| *item == OrderItem::FromBuilder);
    let before = modules(parts.next().unwrap_or_default(), "buildpacks")?;
    let Some(after) = parts.next() else { return Ok(vec![Group { group: before }]) };
    if parts.next().is_some() {
        return Err(OrderError::Twice);
    }
    Ok(around(builder, &before, &modules(after, "buildpacks")?))
}

fn around(builder: &Order, before: &[GroupElement], after: &[GroupElement]) -> Order {
    let group = |group: &Group| Group { group: [before, &group.group, after].concat() };
    builder.iter().map(group).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_cnb::{Id, Kind, Version};

    use super::*;

    fn items(ids: &str) -> Vec<OrderItem> {
        let item = |id: &str| {
            if id == "*" {
                return OrderItem::FromBuilder;
            }
            let (id, version) = (Id::parse(id).unwrap(), Version::parse("1.0.0").unwrap());
            OrderItem::Module(ModuleRef { kind: Kind::Buildpack, id, version })
        };
        ids.split_whitespace().map(item).collect()
    }

    fn asked(buildpacks: &str, pre: &str, post: &str, extensions: &str) -> Asked {
        let (buildpacks, pre, post) = (items(buildpacks), items(pre), items(post));
        Asked { buildpacks, pre, post, extensions: items(extensions) }
    }

    fn order(groups: &[&str]) -> Order {
        let element = |id: &str| GroupElement { id: id.to_owned(), ..GroupElement::default() };
        let group = |ids: &&str| Group { group: ids.split_whitespace().map(element).collect() };
        groups.iter().map(group).collect()
    }

    fn shown(order: &Order) -> Vec<String> {
        let group = |group: &Group| {
            group.group.iter().map(|element| element.id.as_str()).collect::<Vec<_>>().join(" ")
        };
        order.iter().map(group).collect()
    }

    #[test]
    fn lists_replace_or_surround_the_order_of_the_builder() {
        let none = || asked("", "", "", "");
        for (command_line, project, expected) in [
            (none(), none(), vec!["a b", "c"]),
            (asked("x y", "", "", ""), none(), vec!["x y"]),
            (asked("x * y", "", "", ""), none(), vec!["x a b y", "x c y"]),
            (asked("*", "", "", ""), none(), vec!["a b", "c"]),
            (asked("* y", "p", "q", ""), none(), vec!["a b y", "c y"]),
            (none(), asked("x", "", "", ""), vec!["x"]),
            (asked("y", "", "", ""), asked("x", "p", "q", ""), vec!["y"]),
            (asked("", "p1 p2", "", ""), none(), vec!["p1 p2 a b", "p1 p2 c"]),
            (asked("", "p", "", ""), asked("", "r", "s", ""), vec!["p a b s", "p c s"]),
            (asked("", "p", "q", ""), asked("x", "", "", ""), vec!["x"]),
        ] {
            let (made, extensions) =
                effective_order(&order(&["a b", "c"]), &order(&["e"]), &command_line, &project)
                    .unwrap();
            assert_eq!(shown(&made), expected, "{command_line:?} {project:?}");
            assert_eq!(shown(&extensions), ["e"]);
        }
    }

    #[test]
    fn elements_keep_what_the_builder_says_and_get_versions() {
        let mut builder = order(&["a"]);
        builder[0].group[0].optional = true;
        let (made, extensions) =
            effective_order(&builder, &vec![], &asked("", "p", "", "e f"), &Asked::default())
                .unwrap();
        assert_eq!(made[0].group[0].version, "1.0.0");
        assert!(!made[0].group[0].optional && made[0].group[1].optional);
        assert_eq!(shown(&extensions), ["e f"]);
        assert!(ignores_pre_and_post(&asked("x", "p", "", ""), &Asked::default()));
        assert!(!ignores_pre_and_post(&asked("", "p", "", ""), &Asked::default()));
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let make = |builder: &[&str], command_line: Asked| {
            effective_order(&order(builder), &vec![], &command_line, &Asked::default()).unwrap_err()
        };
        assert_eq!(make(&["a"], asked("* x *", "", "", "")), OrderError::Twice);
        assert_eq!(make(&["a"], asked("", "*", "", "")), OrderError::Misplaced("pre-buildpacks"));
        assert_eq!(make(&["a"], asked("", "", "*", "")), OrderError::Misplaced("post-buildpacks"));
        assert_eq!(make(&["a"], asked("", "", "", "*")), OrderError::Misplaced("extensions"));
        assert_eq!(make(&[], asked("", "p", "", "")), OrderError::Empty);
        assert_eq!(make(&[], asked("x *", "", "", "")), OrderError::Empty);
    }
}
