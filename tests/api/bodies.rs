//! Bodies that are too large, never end, break off, or are not what they say: refused within bounds of memory and of time.

use std::thread;
use std::time::Duration;

use crate::server;
use crate::table::{MOST_MIB, Row, count, hold, is_well, row};
use crate::wire::{Request, get, gzip, post, put, request, stream};

const PAIR: &str = r#"{"user_id":"u","segment":"kept"}"#;

fn json(method: &str, path: &str) -> Request {
    request(method, path).header("Content-Type", "application/json")
}

fn lines() -> Request {
    request("POST", "/v1/pairs:batch").header("Content-Type", "application/x-ndjson")
}

/// Every route that reads a body as a whole.
fn whole() -> [Request; 4] {
    [
        json("POST", "/v1/pairs"),
        json("POST", "/v1/pairs:batch"),
        json("POST", "/v1/counts"),
        json("PUT", "/v1/segments/s"),
    ]
}

/// A million pairs as one array, made as it is sent.
fn million() -> impl Iterator<Item = Vec<u8>> + Send {
    (0..100_u32).map(|part| {
        let begin = if part == 0 { "[" } else { "," };
        let pairs: Vec<_> = (0..10_000)
            .map(|n| format!(r#"{{"user_id":"{part}-{n}","segment":"million"}}"#))
            .collect();
        let end = if part == 99 { "]" } else { "" };
        format!("{begin}{}{end}", pairs.join(",")).into_bytes()
    })
}

/// The same bytes, chunk after chunk, for ever.
fn forever(bytes: impl AsRef<[u8]>) -> impl Iterator<Item = Vec<u8>> + Send {
    std::iter::repeat(bytes.as_ref().to_vec())
}

#[test]
fn an_array_of_a_million_pairs_is_refused_before_it_is_held() {
    let server = server();
    let mut rows: Vec<Row> = vec![
        row(
            "in chunks",
            json("POST", "/v1/pairs:batch").chunks(million()),
            413,
            "body-too-large",
        ),
        row(
            "by gzip",
            json("POST", "/v1/pairs:batch").gzip().chunks(million().map(gzip)),
            413,
            "body-too-large",
        ),
    ];
    let announced: Vec<u8> = million().flatten().collect();
    rows.push(row(
        "announced",
        json("POST", "/v1/pairs:batch").body(announced),
        413,
        "body-too-large",
    ));
    for items in [10_001, 1_000_000] {
        let small = format!("[{}0]", "0,".repeat(items - 1));
        rows.push(row(
            format!("{items} numbers"),
            json("POST", "/v1/pairs:batch").body(small),
            413,
            "too-many-items",
        ));
    }
    hold(&server, rows);
    assert_eq!(
        get("/v1/segments/million").send(server.address()).unwrap().status,
        404,
        "nothing of it was taken"
    );
}

#[test]
fn a_body_without_end_is_refused_where_its_limit_is() {
    let server = server();
    let mut rows: Vec<Row> = Vec::new();
    for begin in whole() {
        rows.push(row(
            "blanks for ever",
            begin.chunks(forever([b' '; 4_096])),
            413,
            "body-too-large",
        ));
    }
    let string = std::iter::once(br#"{"user_id":""#.to_vec()).chain(forever([b'x'; 1_000]));
    rows.push(row(
        "a name without end",
        json("POST", "/v1/pairs").chunks(string),
        413,
        "body-too-large",
    ));
    let deep = std::iter::once(b"[".to_vec()).chain(forever([b'['; 65_536]));
    rows.push(row(
        "brackets for ever",
        json("POST", "/v1/pairs:batch").chunks(deep),
        413,
        "body-too-large",
    ));
    // A stream may be of any length, so only what holds no pair is given up.
    rows.push(row(
        "a line without end",
        lines().chunks(forever([b'x'; 65_536])),
        413,
        "body-too-large",
    ));
    rows.push(row(
        "blank lines for ever",
        lines().chunks(forever([b'\n'; 65_536])),
        413,
        "body-too-large",
    ));
    rows.push(row(
        "bad lines for ever",
        lines().chunks(forever("{}\n".repeat(20_000))),
        413,
        "body-too-large",
    ));
    hold(&server, rows);
}

#[test]
fn a_bomb_goes_off_within_bounds() {
    let server = server();
    // A megabyte in a kilobyte, as often as the server reads on: gigabytes, if it did.
    let zeros = gzip(vec![0_u8; 1 << 20]);
    let blanks = gzip(vec![b' '; 1 << 20]);
    let ends = gzip(vec![b'\n'; 1 << 20]);
    let bad = gzip("{}\n".repeat(300_000));
    let mut rows: Vec<Row> = Vec::new();
    for bomb in [&zeros, &blanks] {
        for begin in whole() {
            rows.push(row(
                "gzip",
                begin.gzip().chunks(forever(bomb.repeat(8))),
                413,
                "body-too-large",
            ));
        }
    }
    for bomb in [&zeros, &ends, &bad] {
        rows.push(row(
            "gzip of lines",
            lines().gzip().chunks(forever(bomb.repeat(8))),
            413,
            "body-too-large",
        ));
        let announced = bomb.repeat(256);
        rows.push(row(
            "gzip of lines, announced",
            lines().gzip().body(announced),
            413,
            "body-too-large",
        ));
    }
    // A frame that says that its decoder needs a window of 2 GiB.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    for begin in whole().into_iter().chain([lines()]) {
        let bomb = begin.header("Content-Encoding", "zstd").body(window);
        rows.push(row("a window of 2 GiB", bomb, 400, "malformed-body"));
    }
    hold(&server, rows);
}

#[test]
fn a_body_that_is_not_encoded_as_it_says_or_breaks_off_is_malformed() {
    let server = server();
    let good = gzip(format!("[{PAIR}]"));
    let mut broken = good.clone();
    broken[12] ^= 0xff;
    let mut checksum = good.clone();
    let at = checksum.len() - 6;
    checksum[at] ^= 0xff;
    let mut rows: Vec<Row> = Vec::new();
    for (what, bytes) in [
        ("plain text", PAIR.as_bytes().to_vec()),
        ("a header alone", good[..10].to_vec()),
        ("truncated", good[..good.len() - 9].to_vec()),
        ("without its checksum", good[..good.len() - 8].to_vec()),
        ("broken in the middle", broken),
        ("a wrong checksum", checksum),
        ("text behind it", [&good[..], b"and more"].concat()),
    ] {
        for begin in whole().into_iter().chain([lines()]) {
            rows.push(row(
                format!("gzip: {what}"),
                begin.gzip().body(&bytes),
                400,
                "malformed-body",
            ));
        }
    }
    for begin in whole().into_iter().chain([lines()]) {
        rows.push(row(
            "zstd: plain text",
            begin.header("Content-Encoding", "zstd").body(PAIR),
            400,
            "malformed-body",
        ));
    }
    for begin in whole().into_iter().chain([lines()]) {
        rows.push(row(
            "the client breaks off",
            begin.breaks_off("{\"user_id\":"),
            400,
            "malformed-body",
        ));
    }
    hold(&server, rows);
    // Nothing at all is no gzip file, and no JSON either; an empty stream has no lines.
    let empty = post("/v1/pairs", "").gzip().send(server.address()).unwrap();
    assert_eq!(empty.status, 400, "{}", empty.text());
    let twice = [gzip(format!("{PAIR}\n")), gzip(format!("{PAIR}\n"))].concat();
    let answer = stream(twice).gzip().send(server.address()).unwrap();
    assert_eq!(
        answer.json()["received"],
        2,
        "two members are one file: {}",
        answer.text()
    );
    assert_eq!(stream("").send(server.address()).unwrap().json()["received"], 0);
}

#[test]
fn bodies_that_fill_memory_together_are_told_to_come_again() {
    let server = server();
    let address = server.address().to_owned();
    let clients: Vec<_> = (0..32)
        .map(|client| {
            let address = address.clone();
            thread::spawn(move || {
                // Nearly 8 MiB, which one client may send, and which 32 may not together.
                let pair = format!(r#"{{"user_id":"{client}-{}","segment":"crowd"}},"#, "x".repeat(100));
                let filler = std::iter::repeat_n(pair.repeat(400).into_bytes(), 120);
                let chunks = std::iter::once(b"[".to_vec())
                    .chain(filler)
                    .chain([format!("{PAIR}]").into_bytes()]);
                let answer = json("POST", "/v1/pairs:batch").chunks(chunks).send(&address);
                answer.map(|answer| (answer.status, answer.kind(), answer.header("retry-after").is_some()))
            })
        })
        .collect();
    for client in clients {
        match client.join().unwrap() {
            // 48,001 of them: too many, once it was read.
            Some((413, Some(kind), _)) => assert_eq!(kind, "too-many-items"),
            Some((503, Some(kind), true)) => assert_eq!(kind, "overloaded"),
            other => panic!("{other:?}"),
        }
    }
    is_well(&server);
    assert!(server.peak_mib() <= MOST_MIB);
}

#[test]
fn a_body_that_stops_coming_is_given_up_and_what_it_brought_is_kept() {
    let server = server();
    let address = server.address().to_owned();
    let mut asked = whole()
        .map(|begin| begin.stalls(r#"{"user_id":"#))
        .to_vec_of_threads(&address);
    asked.extend([lines().stalls(format!("{PAIR}\n{{\"user_id\":"))].to_vec_of_threads(&address));
    let zipped = gzip(format!("{PAIR}\n"));
    asked.extend([lines().gzip().stalls(&zipped[..zipped.len() - 4])].to_vec_of_threads(&address));
    for (number, thread) in asked.into_iter().enumerate() {
        let answer = thread.join().unwrap();
        assert_eq!(
            (answer.status, answer.kind().as_deref()),
            (408, Some("body-timeout")),
            "{}",
            answer.text()
        );
        if number == 4 {
            // Which of the two streams that brought it was first is not said.
            let totals = &answer.json()["totals"];
            let good = totals["created"].as_u64().unwrap() + totals["unchanged"].as_u64().unwrap();
            assert_eq!((good, &totals["received"]), (1, &1.into()), "{totals}");
        }
    }
    assert_eq!(count(&server, "kept"), 1);
    is_well(&server);
}

trait Threads {
    /// Sends them all at once.
    fn to_vec_of_threads(self, address: &str) -> Vec<thread::JoinHandle<crate::wire::Answer>>;
}

impl<const N: usize> Threads for [Request; N] {
    fn to_vec_of_threads(self, address: &str) -> Vec<thread::JoinHandle<crate::wire::Answer>> {
        self.into_iter()
            .map(|request| {
                let address = address.to_owned();
                thread::spawn(move || request.send(&address).expect("an answer"))
            })
            .collect()
    }
}

#[test]
fn a_body_at_its_very_limit_is_taken_and_one_byte_more_is_not() {
    let server = server();
    let padded = |length: usize| format!("{PAIR}{}", " ".repeat(length - PAIR.len()));
    assert_eq!(
        post("/v1/pairs", padded(4_096)).send(server.address()).unwrap().status,
        200
    );
    hold(
        &server,
        [row(
            "4,097 bytes",
            post("/v1/pairs", padded(4_097)),
            413,
            "body-too-large",
        )],
    );
    let array = format!("[{}]", [PAIR; 10_000].join(","));
    let answer = post("/v1/pairs:batch", array).send(server.address()).unwrap();
    assert_eq!(answer.json()["received"], 10_000, "{}", answer.text());
    let settings = format!("{{}}{}", " ".repeat(8 * 1024 - 2));
    assert_eq!(
        put("/v1/segments/s", settings).send(server.address()).unwrap().status,
        201
    );
}

#[test]
fn what_trickles_in_is_counted_while_it_trickles() {
    let server = server();
    let address = server.address().to_owned();
    let stream = thread::spawn(move || {
        let trickle = (0..25).map(|user| {
            thread::sleep(Duration::from_millis(100));
            format!("{{\"user_id\":\"{user}\",\"segment\":\"slow\"}}\n").into_bytes()
        });
        lines().chunks(trickle).send(&address).expect("an answer").status
    });
    thread::sleep(Duration::from_millis(1_500));
    let so_far = count(&server, "slow");
    assert!((5..20).contains(&so_far), "{so_far}");
    assert_eq!(stream.join().unwrap(), 200);
    assert_eq!(count(&server, "slow"), 25);
}
