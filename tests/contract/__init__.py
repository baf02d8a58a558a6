"""The wire contract as black-box tests over HTTP, a module a section.

What the contract leaves open ([?]) or gives two readings of, our choice, and the test that holds it:

========================================  ========================================  =============
left open                                 here                                      test
========================================  ========================================  =============
§0 unknown identifier key on publish      400 INVALID_NOTIFICATION_REQUEST          test_notify: a_key_the_schema_does_not_have
§3 the sequence of what was published     in the answer, as `id` and `sequence`     test_notify: the_answer_names_request
§2 a published `point`: before or after   before, as the order of checks says       test_auth: a_published_point_is_refused
   the stream's auth
§2 where the ends of a replay are         after both starts, before "both given"    test_request_body: validated_in_order
   checked; an end on watch or publish    and before the identifier's fields
§2 a key twice in one object              the last one counts                       test_request_body: of_a_key_given_twice
§2.2 a leap second, :60                   the second after :59                      test_limits: from_date_takes
§4 NOTIFICATION_PROCESSING_FAILED         never sent: what fails is refused (400)   test_errors: a_log_of_another_kind
                                          or could not be stored (500, 503)
§5 `Cache-Control`                        `no-cache, no-transform`                  test_frames: the_headers_of_a_stream
§5.1 digits of `time`                     milliseconds, always three                test_notify: an_event_is_a_cloudevent
§5.1 a value that is `*` or empty         `*` is a value like any other             test_notify: a_value_may_hold
§5.2 heartbeat of a replay                none, as in 0.7.1                         test_lifecycles: the_maximum_duration
§5.6 slow consumers                       read on from the log, nothing dropped     tests/faults
§6 `canonical_format` left out            `%Y%m%d`                                  tests/gateway/schema
§6 a schema without `topic`               routed by all its keys, sorted            test_schemaless: a_schema_without_topic
§6 `max_length`                           counts bytes, as upstream                 test_fields: a_value_that_is_refused
§8 a point on the edge of a polygon       does not match                            test_spatial: a_point_finds
§8 `polygon` in `key_order`               narrows nothing by its text               test_spatial: a_polygon_finds
§9 a filter without schema                events that carry all its values, what-   test_schemaless: a_filter_without_schema
                                          ever other keys they have
§10 a bad body or type of wipe/stream     400 and 415 in the shape of every error   test_errors: a_wipe_wants_json
§13 `Last-Event-ID` on a POST             heard too, and outweighs `from_*`         test_cursors: last_event_id_is_heard
§13 a stream asked for while draining     503 SHUTTING_DOWN with `Retry-After`      test_lifecycles: a_live_watch_ends
§13 a bulk request with refused items     200, status `partial`; 4xx only when the  test_bulk: a_body_that_is_neither
                                          body is neither array nor lines
§13 bulk with more items than allowed     413 BODY_TOO_LARGE                        test_errors: limits_are_told
§13 an Idempotency-Key                    counts per tenant and event type; with    test_idempotency: another_event_under
                                          another event: 422 IDEMPOTENCY_KEY_REUSED
========================================  ========================================  =============
"""
