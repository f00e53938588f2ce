//! What the decoder accepts, what it complains about, and that cuts and noise do not matter.

use super::decoder::ProtocolError;
use super::*;
use bytes::BytesMut;
use proptest::prelude::*;

/// Everything that one conversation yields, in order.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Request(Vec<Vec<u8>>),
    TooLarge(TooLarge),
    Error(ProtocolError),
}

fn small_limits() -> DecoderLimits {
    DecoderLimits {
        bulk_bytes_max: 1000,
        argument_bytes_max: 100,
        request_bytes_max: 300,
        arguments_max: 20,
    }
}

/// Feeds `pieces` one after the other. Also checks that no more is kept than limits allow.
fn decode<'a>(limits: DecoderLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut decoder = Decoder::new(limits);
    let mut input = BytesMut::new();
    let mut arguments = Arguments::default();
    let mut events = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input, &mut arguments) {
                Ok(Decoded::Incomplete) => break,
                Ok(Decoded::Request) => {
                    assert!(!arguments.is_empty());
                    let words = arguments.iter_from(0).map(<[u8]>::to_vec).collect();
                    events.push(Event::Request(words));
                }
                Ok(Decoded::TooLarge(too_large)) => events.push(Event::TooLarge(too_large)),
                Err(error) => {
                    events.push(Event::Error(error));
                    return events;
                }
            }
        }
        let kept_max = (64 * 1024 + 1).max(limits.request_bytes_max);
        assert!(input.len() <= kept_max, "{} bytes kept", input.len());
        assert!(decoder.missing_bytes(&input) <= limits.argument_bytes_max + 2);
    }
    events
}

fn requests(words: &[&[&[u8]]]) -> Vec<Event> {
    words.iter().map(|words| Event::Request(words.iter().map(|w| w.to_vec()).collect())).collect()
}

fn whole(input: &[u8]) -> Vec<Event> {
    decode(DecoderLimits::default(), [input])
}

/// What Redis 7.0 understands, quirks included.
#[test]
fn accepted() {
    let table: [(&[u8], &[&[&[u8]]]); 12] = [
        (b"", &[]),
        (b"*1\r\n$4\r\nPING\r\n", &[&[b"PING"]]),
        (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", &[&[b"GET", b""]]),
        (b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n", &[&[b"GET", b"a\r\nb"]]),
        (b"*-1\r\nPING\r\n", &[&[b"PING"]]),
        (b"*0\r\n*1\r\n$4\r\nPING\r\n", &[&[b"PING"]]),
        (b"*-2147483649\r\nPING\r\n", &[&[b"PING"]]),
        (b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPONG\r\n", &[&[b"PING"], &[b"PONG"]]),
        (b"*1\rx$4\rxPING\r\n", &[&[b"PING"]]),
        (b"\r\n\n  \r\nPING\r\n", &[&[b"PING"]]),
        (b"PING\n", &[&[b"PING"]]),
        (
            b"SET a b\r\n*1\r\n$4\r\nPING\r\nGET a\n",
            &[&[b"SET", b"a", b"b"], &[b"PING"], &[b"GET", b"a"]],
        ),
    ];
    for (input, expected) in table {
        assert_eq!(whole(input), requests(expected), "{}", input.escape_ascii());
    }
}

/// What Redis 7.0 says to the same bytes.
#[test]
fn refused() {
    let table: [(&[u8], &str); 19] = [
        (b"*x\r\n", "Protocol error: invalid multibulk length"),
        (b"*\r\n", "Protocol error: invalid multibulk length"),
        (b"*01\r\n", "Protocol error: invalid multibulk length"),
        (b"*+1\r\n", "Protocol error: invalid multibulk length"),
        (b"* 1\r\n", "Protocol error: invalid multibulk length"),
        (b"*2147483648\r\n", "Protocol error: invalid multibulk length"),
        (b"*99999999999999999999\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\r\n:4\r\n", "Protocol error: expected '$', got ':'"),
        (b"*1\r\nx\r\n", "Protocol error: expected '$', got 'x'"),
        (b"*1\r\n\r\n", "Protocol error: expected '$', got ' '"),
        (b"*1\r\n\n\r\n", "Protocol error: expected '$', got ' '"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$x\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$04\r\nPING\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$600000000\r\n", "Protocol error: invalid bulk length"),
        (b"SET a \"b\r\n", "Protocol error: unbalanced quotes in request"),
        (&[b'x'; 70_000], "Protocol error: too big inline request"),
        (&[b'*'; 70_000], "Protocol error: too big mbulk count string"),
    ];
    for (input, expected) in table {
        let shown = input[..input.len().min(40)].escape_ascii();
        match whole(input).as_slice() {
            [Event::Error(error)] => assert_eq!(error.to_string(), expected, "{shown}"),
            other => panic!("{shown}: {other:?}"),
        }
    }
    let endless = [b"*1\r\n$".as_slice(), &[b'1'; 70_000]].concat();
    assert_eq!(whole(&endless), [Event::Error(ProtocolError::BulkLengthTooLong)]);
}

#[test]
fn requests_before_an_error_are_served() {
    let mut expected = requests(&[&[b"PING"]]);
    expected.push(Event::Error(ProtocolError::ExpectedBulk { got: b'x' }));
    assert_eq!(whole(b"PING\r\n*1\r\nx\r\nPING\r\n"), expected);
}

/// What is too large is passed over, and the conversation goes on.
#[test]
fn too_large_requests_are_dropped() {
    let argument = TooLarge::Argument { bytes: 101, bytes_max: 100 };
    let ping = || Event::Request(vec![b"PING".to_vec()]);

    let mut input = b"*3\r\n$3\r\nSET\r\n$101\r\n".to_vec();
    input.extend([b'k'; 101]);
    input.extend(b"\r\n$1\r\nv\r\nPING\r\n");
    assert_eq!(decode(small_limits(), [&*input]), [Event::TooLarge(argument), ping()]);

    let mut last = b"*2\r\n$3\r\nGET\r\n$101\r\n".to_vec();
    last.extend([b'k'; 101]);
    last.extend(b"\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!(decode(small_limits(), [&*last]), [Event::TooLarge(argument), ping()]);

    let mut many = b"*4\r\n$3\r\nDEL\r\n".to_vec();
    for _ in 0..3 {
        many.extend(b"$100\r\n");
        many.extend([b'k'; 100]);
        many.extend(b"\r\n");
    }
    many.extend(b"PING\r\n");
    let request = TooLarge::Request { bytes_max: 300 };
    assert_eq!(decode(small_limits(), [&*many]), [Event::TooLarge(request), ping()]);
}

#[test]
fn an_announced_length_reserves_nothing() {
    let mut decoder = Decoder::new(DecoderLimits::default());
    let mut input = BytesMut::from(b"*1000000\r\n$8388608\r\nabc".as_slice());
    let capacity = input.capacity();
    let decoded = decoder.decode(&mut input, &mut Arguments::default());
    assert_eq!(decoded, Ok(Decoded::Incomplete));
    assert_eq!(input.capacity(), capacity);
    assert_eq!(decoder.spans_capacity(), 0);
    assert_eq!(decoder.missing_bytes(&input), 8_388_608 + 2 - 3);
}

/// Fragments that make interesting streams when put side by side.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let literal = prop::sample::select(vec![
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
        b"*0\r\n".to_vec(),
        b"*-1\r\n".to_vec(),
        b"\r\n".to_vec(),
        b"\n".to_vec(),
        b"GET a\r\n".to_vec(),
        b"SET a \"x y\\x00\"\n".to_vec(),
        b"SET a \"x\r\n".to_vec(),
        b"*2\r\n".to_vec(),
        b"$1\r\n".to_vec(),
        b"$99\r\n".to_vec(),
        b"*21\r\n".to_vec(),
        b"$x\r\n".to_vec(),
        b"\r".to_vec(),
    ]);
    let array =
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..140), 1..5).prop_map(|words| {
            let mut out = format!("*{}\r\n", words.len()).into_bytes();
            for word in words {
                out.extend(format!("${}\r\n", word.len()).bytes());
                out.extend(word);
                out.extend(b"\r\n");
            }
            out
        });
    let noise = prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![3 => literal, 4 => array, 1 => noise]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn cuts_do_not_matter(fragments in prop::collection::vec(fragment(), 0..8)) {
        let stream = fragments.concat();
        let expected = decode(small_limits(), [stream.as_slice()]);
        prop_assert_eq!(&decode(small_limits(), stream.chunks(1)), &expected);
        for cut in 0..=stream.len() {
            let (left, right) = stream.split_at(cut);
            prop_assert_eq!(&decode(small_limits(), [left, right]), &expected, "cut at {}", cut);
        }
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..2000), piece in 1usize..100) {
        decode(small_limits(), noise.chunks(piece));
    }

    #[test]
    fn numbers_are_read_as_they_are_written(value in any::<i64>()) {
        prop_assert_eq!(parse_integer(value.to_string().as_bytes()), Some(value));
    }
}
