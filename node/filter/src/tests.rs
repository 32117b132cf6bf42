//! What each word of a pattern means, and what is refused.

use serde_json::json;

use super::*;

fn filter(pattern: Value) -> Filter {
    Filter::compile(&[pattern]).unwrap()
}

fn matches_json(pattern: Value, value: &str) -> bool {
    let record = Record { value: Some(value.as_bytes()), ..Record::default() };
    filter(json!({ "value": pattern })).matches(&record)
}

/// Whether one condition holds of one value.
fn holds(condition: Value, value: Value) -> bool {
    matches_json(json!({ "x": [condition] }), &json!({ "x": value }).to_string())
}

#[test]
fn literals_are_equal_by_kind() {
    assert!(holds(json!("a"), json!("a")) && !holds(json!("a"), json!("A")));
    assert!(holds(json!(true), json!(true)) && !holds(json!(true), json!("true")));
    assert!(holds(json!(null), json!(null)) && !holds(json!(null), json!(0)));
    assert!(holds(json!(300), json!(300.0)) && holds(json!(3e2), json!(300)));
    assert!(!holds(json!(300), json!("300")));
    let large = 9_007_199_254_740_993_i64;
    assert!(holds(json!(large), json!(large)) && !holds(json!(large), json!(large - 1)));
    assert!(!holds(json!(large), json!(9_007_199_254_740_992.0)), "doubles are not exact there");
}

#[test]
fn operators_on_strings() {
    let cases = [
        (json!({"prefix": "ab"}), "abc", "bab"),
        (json!({"suffix": "bc"}), "abc", "bca"),
        (json!({"prefix": {"equals-ignore-case": "Äb"}}), "äBc", "aBc"),
        (json!({"suffix": {"equals-ignore-case": "bÖ"}}), "aBö", "aBo"),
        (json!({"equals-ignore-case": "straße"}), "STRAßE", "STRASS"),
        (json!({"wildcard": "a*\\*"}), "abc*", "abc"),
        (json!({"exactly": "10.0.0.1"}), "10.0.0.1", "10.0.0.2"),
        (json!({"cidr": "10.0.0.0/31"}), "10.0.0.1", "10.0.0.2"),
        (json!({"cidr": "0.0.0.0/0"}), "10.0.0.1", "::"),
        (json!({"cidr": "2001:db8::/33"}), "2001:db8:7fff::1", "2001:db8:8000::1"),
        (json!({"cidr": "::/0"}), "ffff::1", "10.0.0.1"),
        (json!("2001:DB8::1"), "2001:db8:0::1", "2001:db8::2"),
        (json!({"anything-but": "a"}), "b", "a"),
        (json!({"anything-but": ["a", "b"]}), "c", "b"),
        (json!({"anything-but": {"prefix": "a"}}), "ba", "ab"),
        (json!({"anything-but": {"suffix": ["a", "b"]}}), "ac", "ab"),
        (json!({"anything-but": {"equals-ignore-case": ["a"]}}), "b", "A"),
        (json!({"anything-but": {"wildcard": ["a*b", "c*"]}}), "ac", "axb"),
    ];
    for (condition, yes, no) in cases {
        assert!(holds(condition.clone(), json!(yes)), "{condition} {yes}");
        assert!(!holds(condition.clone(), json!(no)), "{condition} {no}");
        let is_negative = condition.get("anything-but").is_some();
        assert_eq!(holds(condition.clone(), json!(7)), is_negative, "{condition} of a number");
        assert_eq!(holds(condition.clone(), json!(null)), is_negative, "{condition} of null");
    }
}

#[test]
fn operators_on_numbers() {
    let cases = [
        (json!({"numeric": ["=", 5]}), json!(5.0), json!(6)),
        (json!({"numeric": ["<", 5]}), json!(4.9), json!(5)),
        (json!({"numeric": ["<=", 5]}), json!(5), json!(5.1)),
        (json!({"numeric": [">", -5]}), json!(-4), json!(-5)),
        (json!({"numeric": [">=", 1e3, "<", 2e3]}), json!(1000), json!(2000)),
        (json!({"numeric": [">=", 5, "<=", 5]}), json!(5), json!(4)),
        (json!({"numeric": [">", 1_700_000_000_000_i64]}), json!(1_700_000_000_001_i64), json!(1)),
        (json!({"anything-but": 5}), json!(6), json!(5.0)),
        (json!({"anything-but": [5, 6]}), json!("5"), json!(6)),
    ];
    for (condition, yes, no) in cases {
        assert!(holds(condition.clone(), yes.clone()), "{condition} {yes}");
        assert!(!holds(condition.clone(), no.clone()), "{condition} {no}");
    }
    assert!(!holds(json!({"numeric": ["=", 5]}), json!("5")));
}

#[test]
fn a_field_exists_when_it_has_a_value() {
    for (value, exists) in [("1", true), ("null", true), ("[]", false), ("[[],[0]]", true)] {
        let value = format!(r#"{{"x":{value}}}"#);
        assert_eq!(matches_json(json!({"x": [{"exists": true}]}), &value), exists, "{value}");
        assert_eq!(matches_json(json!({"x": [{"exists": false}]}), &value), !exists, "{value}");
    }
    assert!(matches_json(json!({"x": [{"exists": false}]}), r#"{"x":{"y":1}}"#), "no leaf");
    assert!(matches_json(json!({"x": [{"exists": false}, 1]}), r#"{"x":1}"#));
    assert!(!matches_json(json!({"x": [{"exists": false}, 1]}), r#"{"x":2}"#));
}

#[test]
fn names_join_by_dots_on_both_sides() {
    for value in [r#"{"a":{"b":{"c":1}}}"#, r#"{"a.b":{"c":1}}"#, r#"{"a":{"b.c":1}}"#] {
        assert!(matches_json(json!({"a": {"b": {"c": [1]}}}), value), "{value}");
        assert!(matches_json(json!({"a.b.c": [1]}), value), "{value}");
    }
    assert!(matches_json(json!({"\u{e4}": ["\n"]}), r#"{"\u00e4":"\n"}"#), "escapes are read");
}

#[test]
fn or_is_a_name_unless_it_has_alternatives() {
    let either = json!({"a": [1], "$or": [{"b": [1]}, {"c": [1], "d": [1]}]});
    for (value, expected) in [
        (r#"{"a":1,"b":1}"#, true),
        (r#"{"a":1,"c":1,"d":1}"#, true),
        (r#"{"a":1,"c":1}"#, false),
        (r#"{"b":1}"#, false),
    ] {
        assert_eq!(matches_json(either.clone(), value), expected, "{value}");
    }
    assert!(matches_json(json!({"$or": {"a": [1]}}), r#"{"$or":{"a":1}}"#));
    assert!(matches_json(json!({"$or": ["x", "y"]}), r#"{"$or":"y"}"#));
    let operators = json!({"$or": [{"numeric": [">", 10]}, {"prefix": "a"}]});
    assert!(matches_json(operators, r#"{"$or":"ab"}"#));
    let nested = json!({"$or": [{"a": [1]}, {"$or": [{"b": [1]}, {"c": [1]}]}]});
    assert!(matches_json(nested, r#"{"c":1}"#));
}

#[test]
fn all_of_a_record_can_be_asked() {
    let header = |name: &str| match name {
        "source" => Some(&b"edge"[..]),
        "raw.bytes" => Some(&[0xff][..]),
        _ => None,
    };
    let record = Record {
        topic: "readings",
        partition: 3,
        offset: 1 << 40,
        timestamp: 1_700_000_000_000,
        key: Some(b"bed-4"),
        value: Some(b"plain text"),
        header: &header,
    };
    let cases = [
        (json!({"topic": ["readings"]}), true),
        (json!({"partition": [3], "offset": [{"numeric": [">", 5]}]}), true),
        (json!({"timestamp": [{"numeric": ["<", 1_700_000_000_000_i64]}]}), false),
        (json!({"key": [{"prefix": "bed-"}]}), true),
        (json!({"key": [{"exists": false}]}), false),
        (json!({"headers": {"source": ["edge"]}}), true),
        (json!({"headers.source": ["cloud"]}), false),
        (json!({"headers": {"none": [{"exists": false}]}}), true),
        (json!({"headers": {"raw.bytes": [{"exists": true}]}}), true),
        (json!({"headers": {"raw.bytes": [{"anything-but": "x"}]}}), true),
        (json!({"headers": {"raw": {"bytes": [{"prefix": ""}]}}}), false),
        (json!({"value": ["plain text"]}), true),
        (json!({"value": [{"suffix": "xt"}]}), true),
        (json!({"value": {"x": [{"exists": false}]}}), false),
        (json!({"$or": [{"key": ["bed-4"]}, {"value": {"x": [1]}}]}), true),
    ];
    for (pattern, expected) in cases {
        assert_eq!(filter(pattern.clone()).matches(&record), expected, "{pattern}");
    }
    let tombstone = Record { key: Some(b"k"), ..Record::default() };
    assert!(filter(json!({"value": [{"exists": false}]})).matches(&tombstone));
    assert!(!filter(json!({"value": {"x": [{"exists": false}]}})).matches(&tombstone));
    let two = [json!({"key": ["x"]}), json!({"key": ["k"]})];
    assert!(Filter::compile(&two).unwrap().matches(&tombstone), "one of several is enough");
}

#[test]
fn what_is_no_json_is_dropped() {
    let pattern = json!({"x": [{"exists": false}]});
    for value in ["{}", "5", "[]", r#""text""#, " {\"y\":[1,{}]} "] {
        assert!(matches_json(pattern.clone(), value), "{value}");
    }
    for value in ["", "{", "{}x", "{\"y\":}", "{'y':1}", "nul", "{\"y\":[1,}"] {
        assert!(!matches_json(pattern.clone(), value), "{value}");
    }
    let deep = |depth: usize| format!("{{\"y\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(matches_json(pattern, &deep(100_000)), "what is skipped may be deep");
}

#[test]
fn mistakes_say_where_they_are() {
    let cases = [
        (json!([]), "E0221", "", "not an object"),
        (json!({}), "E0221", "", "empty object"),
        (json!({"value": {}}), "E0221", "value: ", "empty object"),
        (json!({"valeu": [1]}), "E0222", "valeu: ", "no `valeu`"),
        (json!({"value": {"c": 30}}), "E0221", "value.c: ", "a number"),
        (json!({"value": {"c": []}}), "E0221", "value.c: ", "empty list"),
        (json!({"value": {"c": [[1]]}}), "E0221", "value.c[0]: ", "a list stands"),
        (json!({"value": {"c": [1, {"gt": 5}]}}), "E0222", "value.c[1].gt: ", "no operator"),
        (json!({"value": {"c": [{"prefix": 5}]}}), "E0221", "value.c[0].prefix: ", "a string"),
        (json!({"value": {"c": [{"wildcard": "**"}]}}), "E0221", "value.c[0].wildcard: ", "stars"),
        (json!({"value": {"c": [{"numeric": [">", 5, "<", 5]}]}}), "E0221", "", "no number lies"),
        (json!({"value": {"c": [{"numeric": ["<", 5, ">", 5]}]}}), "E0221", "", "do not make"),
        (json!({"value": {"c": [{"numeric": [">"]}]}}), "E0221", "value.c[0].numeric[0]", "sign"),
        (json!({"value": {"c": [{"numeric": []}]}}), "E0221", "value.c[0].numeric: ", "signs"),
        (json!({"value": {"c": [{"cidr": "10.0.0.1/8"}]}}), "E0221", "", "bits set"),
        (json!({"value": {"c": [{"cidr": "10.0.0.0/33"}]}}), "E0221", "", "no number of bits"),
        (json!({"value": {"c": [{"anything-but": [1, "a"]}]}}), "E0221", "", "mixed"),
        (json!({"value": {"c": [{"anything-but": []}]}}), "E0221", "", "empty"),
        (json!({"value": {"c": [{"anything-but": {"prefix": ""}}]}}), "E0221", "", "every string"),
        (json!({"value": {"c": [{"exists": 1}]}}), "E0221", "value.c[0].exists: ", "no answer"),
        (json!({"value": {"c": [{"prefix": "a", "suffix": "b"}]}}), "E0221", "", "stands alone"),
        (json!({"value": {"$or": [{"a": [1]}]}}), "E0221", "value.$or: ", "no alternatives"),
        (json!({"value.c": [1], "value": {"c": [2]}}), "E0221", "", "twice"),
        (json!({"key": [5]}), "E0221", "key[0]: ", "a number"),
        (json!({"key": {"id": [5]}}), "E0221", "key.id: ", "no fields"),
        (json!({"key": [null]}), "E0221", "key[0]: ", "null"),
        (json!({"offset": [{"prefix": "5"}]}), "E0221", "offset[0].prefix: ", "a string"),
        (json!({"headers": ["x"]}), "E0221", "headers: ", "no value"),
    ];
    for (pattern, code, place, says) in cases {
        let error = Filter::compile(std::slice::from_ref(&pattern)).unwrap_err();
        assert_eq!(error.code, code, "{pattern}: {error}");
        let text = error.to_string();
        assert!(text.starts_with(place) && text.contains(says), "{pattern}: {text}");
        assert!(!error.expected.is_empty());
    }
    assert_eq!(Filter::compile(&[]).unwrap_err().code, "E0221");
    let too_many: serde_json::Map<String, Value> =
        (0..65).map(|it| (format!("f{it}"), json!([1]))).collect();
    assert_eq!(Filter::compile(&[json!({ "value": too_many })]).unwrap_err().code, "E0223");
    let or = json!([{"a": [1]}, {"b": [1]}, {"c": [1]}, {"d": [1]}, {"e": [1]}]);
    let product = json!({"value": {
        "p": {"$or": or}, "q": {"$or": or}, "r": {"$or": or}, "s": {"$or": or},
    }});
    assert_eq!(Filter::compile(&[product]).unwrap_err().code, "E0223");
}

#[test]
fn it_says_what_is_missing() {
    let filter = filter(json!({
        "key": ["k"],
        "value": {"a": [1, {"prefix": "x"}], "b": [{"exists": false}], "c": {"d": [1]}},
    }));
    let value = br#"{"a":[2,"y"],"b":null,"c":{"d":1}}"#;
    let record = Record { value: Some(value), key: Some(b"k"), ..Record::default() };
    let unmet = filter.explain(&record);
    assert_eq!(unmet.len(), 1);
    let missed: Vec<_> =
        unmet[0].missed.iter().map(|it| (&*it.name, &*it.wanted, it.found.join(" "))).collect();
    let a = ("value.a", r#"[1,{"prefix":"x"}]"#, "2 \"y\"".to_owned());
    assert_eq!(missed, [a, ("value.b", r#"[{"exists":false}]"#, "null".to_owned())]);
    let split = Filter::compile(&[json!({"value": {"d": {"a": [1], "b": [1]}}})]).unwrap();
    let value = br#"{"d":[{"a":1},{"b":1}]}"#;
    let record = Record { value: Some(value), ..Record::default() };
    assert_eq!(split.explain(&record), [Unmet { missed: Vec::new() }]);
    let record = Record { value: Some(b"{"), ..Record::default() };
    assert_eq!(split.explain(&record)[0].missed[0].wanted, "JSON");
}

#[test]
fn an_event_with_too_many_choices_passes() {
    let fields: serde_json::Map<String, Value> =
        (0..12).map(|it| (format!("f{it}"), json!([1]))).collect();
    let filter = filter(json!({ "value": { "d": fields, "e": [1] } }));
    let element = |set: u32| {
        let fields = (0..12).filter(|it| set >> it & 1 == 1).map(|it| format!("\"f{it}\":1"));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    };
    let sets: Vec<String> =
        (0_u32..1 << 12).filter(|it| it.count_ones() == 6).map(element).collect();
    let value = format!("{{\"d\":[{}]}}", sets.join(","));
    assert!(filter.matches(&Record { value: Some(value.as_bytes()), ..Record::default() }));
    let value = format!("{{\"d\":[{}]}}", sets[..200].join(","));
    assert!(!filter.matches(&Record { value: Some(value.as_bytes()), ..Record::default() }));
}
