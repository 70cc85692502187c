//! `tail.html`: the end of what a process has written to its standard output. Following a log is done
//! elsewhere; this page is shown anew, by its script or its link.

use fleetvisor_proto::fault::FaultCode;
use fleetvisor_proto::xmlrpc::Value;

use super::form::Form;
use super::html::{Escaped, banner, head, quote};
use crate::rpc::Api;

const LEAST_BYTES: i64 = 1024;
const MOST_BYTES: i64 = 1 << 20;

pub(super) async fn render(api: &Api, form: &Form) -> String {
    let process = form.get("processname");
    let limit = limit(form.get("limit"));
    let text = match process {
        None => "No process name found".to_owned(),
        Some(process) => text(api, process, limit).await,
    };
    page(process, limit, &text)
}

/// In bytes. What is no number counts as nothing said.
fn limit(given: Option<&str>) -> i64 {
    let given = given.filter(|given| given.bytes().all(|byte| byte.is_ascii_digit()));
    // More digits than fit are more bytes than are shown.
    given.map_or(LEAST_BYTES, |given| given.parse().unwrap_or(MOST_BYTES)).clamp(LEAST_BYTES, MOST_BYTES)
}

async fn text(api: &Api, process: &str, limit: i64) -> String {
    let params = [Value::from(process), Value::Int(-limit), Value::Int(0)];
    match super::call(api, "supervisor.readProcessStdoutLog", &params).await {
        Ok(value) => value.as_str().unwrap_or("").to_owned(),
        Err(fault) if fault.code == FaultCode::NoFile.code() => format!("No file for {process}"),
        Err(fault) => format!("ERROR: unexpected rpc fault [{}] {}", fault.code, fault.text),
    }
}

fn page(process: Option<&str>, limit: i64, text: &str) -> String {
    let title = format!("Supervisor tail of process {}", process.unwrap_or("None"));
    let refresh = process.map(|process| {
        format!(
            "<a class=\"button\" title=\"Refresh\" href=\"tail.html?processname={}&amp;limit={limit}\"></a>\n",
            quote(process)
        )
    });
    format!(
        "{}<body class=\"tail\">\n{}<pre id=\"tail\" data-live>\n{}</pre>\n\
         <form action=\"index.html\" method=\"POST\">\n{}</form>\n</body>\n</html>\n",
        head(&title, ""),
        banner(process.unwrap_or("")),
        Escaped(text),
        refresh.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testing;

    #[test]
    fn the_limit_has_limits() {
        assert_eq!(limit(None), 1024);
        assert_eq!(limit(Some("10")), 1024);
        assert_eq!(limit(Some("-4000")), 1024);
        assert_eq!(limit(Some("4000")), 4000);
        assert_eq!(limit(Some("99999999999999999999999")), MOST_BYTES);
    }

    #[tokio::test]
    async fn a_tail_shows_the_end_of_a_log_or_why_it_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let api = testing::api(folder.path());
        std::fs::write(folder.path().join("run.log"), "a <b> & c\n").unwrap();
        let tail = async |query: &str| render(&api, &Form::read(query, b"")).await;
        let page = tail("processname=run").await;
        assert!(page.contains("a &lt;b&gt; &amp; c\n</pre>"), "{page}");
        assert!(page.contains("href=\"tail.html?processname=run&amp;limit=1024\""), "{page}");
        assert!(tail("processname=g%3Ay").await.contains("No file for g:y"));
        let page = tail("processname=%3Cscript%3E").await;
        assert!(
            page.contains("rpc fault [10] BAD_NAME: &lt;script&gt;") && !page.contains("<script>"),
            "{page}"
        );
        assert!(tail("").await.contains("No process name found"));
    }
}
