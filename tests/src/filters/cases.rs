//! The cases that event-ruler is published with, as facts: a pattern, an event, and whether the one
//! matches the other. (aws/event-ruler, src/test/resources/correctness-cases.json.)

/// (pattern, event, whether it matches)
pub(super) type Case = (&'static str, &'static str, bool);

pub(super) const CASES: [Case; 51] = [
    // Objects.
    (r#"{"d":{"a":[{"exists":true}],"b":[{"exists":true}]}}"#, r#"{"d":{"a":1,"b":2}}"#, true),
    (r#"{"d":{"a":[{"exists":true}],"b":[{"exists":true}]}}"#, r#"{"d":{"a":1}}"#, false),
    (r#"{"d":{"a":["hello"],"b":["world"]}}"#, r#"{"d":{"a":"hello","b":"world"}}"#, true),
    (r#"{"d":{"a":["hello"],"b":["world"]}}"#, r#"{"d":{"a":"hello","b":"nope"}}"#, false),
    (r#"{"d":{"a":[{"prefix":"hel"}]}}"#, r#"{"d":{"a":"hello"}}"#, true),
    (r#"{"d":{"x":[{"numeric":[">",0,"<",100]}]}}"#, r#"{"d":{"x":50}}"#, true),
    (r#"{"d":{"s":[{"anything-but":"banned"}]}}"#, r#"{"d":{"s":"active"}}"#, true),
    // Fields of one element of an array, or of several.
    (r#"{"d":{"a":[{"exists":true}],"b":[{"exists":true}]}}"#, r#"{"d":[{"a":1,"b":2}]}"#, true),
    (r#"{"d":{"a":[{"exists":true}],"b":[{"exists":true}]}}"#, r#"{"d":[{"a":1},{"b":2}]}"#, false),
    (
        r#"{"d":{"a":[{"exists":true}],"b":[{"exists":true}]}}"#,
        r#"{"d":[{"a":1},{"b":2},{"a":3,"b":4}]}"#,
        true,
    ),
    (
        r#"{"d":{"a":[{"exists":true}],"b":[{"exists":true}],"c":[{"exists":true}]}}"#,
        r#"{"d":[{"a":1,"b":2,"c":3}]}"#,
        true,
    ),
    (
        r#"{"d":{"a":[{"exists":true}],"b":[{"exists":true}],"c":[{"exists":true}]}}"#,
        r#"{"d":[{"a":1},{"b":2},{"c":3}]}"#,
        false,
    ),
    (
        r#"{"d":{"name":["alice"],"status":["active"]}}"#,
        r#"{"d":[{"name":"alice","status":"active"}]}"#,
        true,
    ),
    (
        r#"{"d":{"name":["alice"],"status":["active"]}}"#,
        r#"{"d":[{"name":"alice"},{"status":"active"}]}"#,
        false,
    ),
    (
        r#"{"d":{"name":[{"prefix":"al"}],"status":[{"exists":true}]}}"#,
        r#"{"d":[{"name":"alice","status":"ok"}]}"#,
        true,
    ),
    (
        r#"{"d":{"name":[{"prefix":"al"}],"status":[{"exists":true}]}}"#,
        r#"{"d":[{"name":"alice"},{"status":"ok"}]}"#,
        false,
    ),
    // Arrays of plain values.
    (
        r#"{"d":{"tags":[{"exists":true}],"name":[{"exists":true}]}}"#,
        r#"{"d":{"tags":["a","b"],"name":"x"}}"#,
        true,
    ),
    (r#"{"tags":["admin"]}"#, r#"{"tags":["user","admin"]}"#, true),
    (r#"{"tags":["superadmin"]}"#, r#"{"tags":["user","admin"]}"#, false),
    // Arrays within arrays.
    (
        r#"{"u":{"t":{"k":["color"],"v":["blue"]}}}"#,
        r#"{"u":[{"t":[{"k":"color","v":"blue"}]}]}"#,
        true,
    ),
    (
        r#"{"u":{"t":{"k":["color"],"v":["blue"]}}}"#,
        r#"{"u":[{"t":[{"k":"color"},{"v":"blue"}]}]}"#,
        false,
    ),
    (
        r#"{"d":{"name":[{"exists":true}],"info":{"x":["1"]}}}"#,
        r#"{"d":[{"name":"alice"},{"info":{"x":"1"}}]}"#,
        false,
    ),
    (
        r#"{"d":{"name":[{"exists":true}],"info":{"x":["1"]}}}"#,
        r#"{"d":[{"name":"alice","info":{"x":"1"}}]}"#,
        true,
    ),
    (
        r#"{"a":{"b":{"x":[{"exists":true}],"y":[{"exists":true}]}}}"#,
        r#"{"a":[{"b":[{"x":1,"y":2}]}]}"#,
        true,
    ),
    (
        r#"{"a":{"b":{"x":[{"exists":true}],"y":[{"exists":true}]}}}"#,
        r#"{"a":[{"b":[{"x":1},{"y":2}]}]}"#,
        false,
    ),
    // An array beside a plain field.
    (
        r#"{"users":{"name":[{"exists":true}]},"version":["1"]}"#,
        r#"{"users":[{"name":"alice"}],"version":"1"}"#,
        true,
    ),
    (
        r#"{"users":{"name":[{"exists":true}]},"version":["2"]}"#,
        r#"{"users":[{"name":"alice"}],"version":"1"}"#,
        false,
    ),
    // Absence, and nothing at all.
    (r#"{"d":{"a":[{"exists":true}],"b":[{"exists":false}]}}"#, r#"{"d":[{"a":1}]}"#, true),
    (r#"{"d":{"a":[{"exists":true}],"b":[{"exists":false}]}}"#, r#"{"d":[{"a":1,"b":2}]}"#, false),
    (r#"{"d":{"a":[{"exists":true}]}}"#, "{}", false),
    (r#"{"d":{"a":[{"exists":true}]}}"#, r#"{"d":[]}"#, false),
    (r#"{"d":{"a":[{"exists":true}]}}"#, r#"{"d":[{"a":1},{"a":2}]}"#, true),
    // One element of many.
    (
        r#"{"d":{"a":["target"],"b":["found"]}}"#,
        r#"{"d":[{"a":"x"},{"a":"y"},{"a":"target","b":"found"},{"a":"z"}]}"#,
        true,
    ),
    (
        r#"{"i":{"p":[{"numeric":[">",0,"<",100]}],"n":[{"exists":true}]}}"#,
        r#"{"i":[{"n":"w","p":50},{"n":"g","p":200}]}"#,
        true,
    ),
    (
        r#"{"u":{"s":[{"anything-but":"banned"}],"n":[{"exists":true}]}}"#,
        r#"{"u":[{"n":"alice","s":"banned"},{"n":"bob","s":"active"}]}"#,
        true,
    ),
    // Arrays of plain values beside plain fields.
    (
        r#"{"d":{"tags":[{"exists":true}],"type":[{"exists":true}]}}"#,
        r#"{"d":{"tags":["a","b","c"],"type":"GROUP"}}"#,
        true,
    ),
    (
        r#"{"d":{"tags":[{"prefix":"ad"}],"type":[{"exists":true}]}}"#,
        r#"{"d":{"tags":["admin","user","dev"],"type":"GROUP"}}"#,
        true,
    ),
    (
        r#"{"d":{"tags":[{"prefix":"super"}],"type":[{"exists":true}]}}"#,
        r#"{"d":{"tags":["admin","user","dev"],"type":"GROUP"}}"#,
        false,
    ),
    (
        r#"{"detail":{"data":{"name":[{"exists":true}],"type":[{"exists":true}]}}}"#,
        r#"{"detail":{"data":{"name":["alice","bob"],"type":"GROUP"}}}"#,
        true,
    ),
    (
        r#"{"tags":[{"exists":true}],"cats":[{"exists":true}],"v":["1"]}"#,
        r#"{"tags":["a","b"],"cats":["x","y"],"v":"1"}"#,
        true,
    ),
    (
        r#"{"d":{"name":["target"],"type":["GROUP"]}}"#,
        r#"{"d":{"name":["a","b","target","c"],"type":"GROUP"}}"#,
        true,
    ),
    (
        r#"{"d":{"vals":[{"numeric":[">",0,"<",10]}],"type":[{"exists":true}]}}"#,
        r#"{"d":{"vals":[100,5,200],"type":"ok"}}"#,
        true,
    ),
    (
        r#"{"d":{"tags":[{"anything-but":"banned"}],"type":[{"exists":true}]}}"#,
        r#"{"d":{"tags":["banned","ok"],"type":"x"}}"#,
        true,
    ),
    (
        r#"{"d":{"name":[{"exists":true}],"type":[{"exists":true}]}}"#,
        r#"{"d":{"name":["only"],"type":"x"}}"#,
        true,
    ),
    (
        r#"{"d":{"name":[{"exists":true}],"type":[{"exists":true}]}}"#,
        r#"{"d":{"name":[],"type":"x"}}"#,
        false,
    ),
    // Arrays of both kinds.
    (
        r#"{"users":{"name":[{"exists":true}]},"tags":["admin"]}"#,
        r#"{"users":[{"name":"alice"}],"tags":["admin","user"]}"#,
        true,
    ),
    (
        r#"{"users":{"name":[{"exists":true}],"email":[{"exists":true}]},"tags":["admin"]}"#,
        r#"{"users":[{"name":"alice"},{"email":"b@x"}],"tags":["admin"]}"#,
        false,
    ),
    (
        r#"{"a":{"b":{"c":{"vals":[{"exists":true}],"type":[{"exists":true}]}}}}"#,
        r#"{"a":{"b":{"c":{"vals":["x","y","z"],"type":"ok"}}}}"#,
        true,
    ),
    (
        r#"{"d":{"name":[{"suffix":"ice"}],"type":[{"exists":true}]}}"#,
        r#"{"d":[{"name":"alice","type":"user"}]}"#,
        true,
    ),
    (
        r#"{"detail":{"email":[{"exists":true}],"name":[{"exists":true}]}}"#,
        r#"{"detail":[{"email":"a@x"},{"email":"b@x"},{"email":"c@x"},{"email":"d@x"},{"email":"e@x","name":"eve"}]}"#,
        true,
    ),
    (
        r#"{"d":{"name":[{"suffix":"ice"}],"type":[{"exists":true}]}}"#,
        r#"{"d":[{"name":"alice"},{"type":"user"}]}"#,
        false,
    ),
];
