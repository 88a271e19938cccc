//! Long lists, part by part.

use anyhow::bail;
use clap::Args;
use cofferdam_apiclient::{ApiError, Page, PageRequest};

use crate::terminal::note;

/// Most entries of a list that nobody asked a length for.
const LIMIT: u32 = 30;

/// Most entries that servers give at once.
const PART: u32 = 100;

/// How much of a list.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PagingArgs {
    /// Most entries to show [default: 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "all")]
    pub(crate) limit: Option<u32>,

    /// Show all entries
    #[arg(long)]
    pub(crate) all: bool,
}

impl PagingArgs {
    /// Fetches as much as was asked for and shows each part; says when there is more.
    pub(crate) async fn each<T>(
        &self,
        mut fetch: impl AsyncFnMut(PageRequest) -> Result<Page<T>, ApiError>,
        mut show: impl FnMut(&[T]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut left = if self.all { None } else { Some(self.limit.unwrap_or(LIMIT)) };
        let mut token = None;
        loop {
            let size = left.unwrap_or(PART).min(PART);
            let request = PageRequest { size: i32::try_from(size).ok(), token: token.clone() };
            let page = fetch(request).await?;
            let wanted = left.map_or(page.items.len(), |left| page.items.len().min(left as usize));
            show(&page.items[..wanted])?;
            left = left.map(|left| left.saturating_sub(u32::try_from(wanted).unwrap_or(left)));
            match page.next {
                None => return Ok(()),
                Some(_) if left == Some(0) => {
                    note("There is more: use --all, or a larger --limit.");
                    return Ok(());
                }
                Some(next) if token.as_ref() == Some(&next) => {
                    bail!("the server gives the same part of the list again and again")
                }
                Some(next) => token = Some(next),
            }
        }
    }
}

/// All entries of a list that has to be seen as a whole.
pub(crate) async fn all<T>(
    size: i32,
    mut fetch: impl AsyncFnMut(PageRequest) -> Result<Page<T>, ApiError>,
) -> anyhow::Result<Vec<T>> {
    let mut items = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = fetch(PageRequest { size: Some(size), token: token.clone() }).await?;
        items.extend(page.items);
        match page.next {
            None => return Ok(items),
            next if next == token => {
                bail!("the server gives the same part of the list again and again")
            }
            next => token = next,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The numbers below `count`, in parts of at most 40.
    fn numbers(count: usize, request: &PageRequest) -> Page<usize> {
        let start = request.token.as_ref().map_or(0, |token| token.parse().unwrap());
        let size = usize::try_from(request.size.unwrap()).unwrap().min(40);
        let end = count.min(start + size);
        Page { items: (start..end).collect(), next: (end < count).then(|| end.to_string()) }
    }

    async fn shown(args: PagingArgs, count: usize) -> Vec<usize> {
        let mut seen = Vec::new();
        let fetch = async |request: PageRequest| Ok(numbers(count, &request));
        args.each(fetch, |part| {
            seen.extend_from_slice(part);
            Ok(())
        })
        .await
        .unwrap();
        seen
    }

    #[tokio::test]
    async fn as_much_as_was_asked_for() {
        let limit = |limit| PagingArgs { limit: Some(limit), all: false };
        assert_eq!(shown(PagingArgs::default(), 100).await.len(), 30);
        assert_eq!(shown(limit(45), 100).await, (0..45).collect::<Vec<_>>());
        assert_eq!(shown(limit(45), 3).await, [0, 1, 2]);
        assert_eq!(shown(PagingArgs { limit: None, all: true }, 130).await.len(), 130);
        let fetch = async |request: PageRequest| Ok(numbers(130, &request));
        assert_eq!(all(100, fetch).await.unwrap().len(), 130);
    }

    #[tokio::test]
    async fn a_list_without_end_is_an_error() {
        let fetch = async |_| Ok(Page { items: vec![1], next: Some("same".to_owned()) });
        assert!(all(1, fetch).await.is_err());
        let args = PagingArgs { limit: None, all: true };
        assert!(args.each(fetch, |_| Ok(())).await.is_err());
    }
}
