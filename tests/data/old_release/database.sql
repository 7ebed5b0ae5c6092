SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.accounts (
    id character varying(40) NOT NULL,
    name character varying(200) NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    limits jsonb DEFAULT '{}'::jsonb NOT NULL,
    role character varying(20) DEFAULT 'customer'::character varying NOT NULL,
    suspended_at timestamp with time zone,
    suspended_reason character varying(500)
);
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.api_keys (
    id character varying(40) NOT NULL,
    account_id character varying(40) NOT NULL,
    name character varying(200) NOT NULL,
    prefix character varying(20) NOT NULL,
    secret_sha256 character varying(64) NOT NULL,
    scopes jsonb NOT NULL,
    last_used_at timestamp with time zone,
    revoked_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    previous_sha256 character varying(64),
    previous_until timestamp with time zone
);
CREATE TABLE public.audit_entries (
    id character varying(40) NOT NULL,
    account_id character varying(40),
    actor character varying(20) NOT NULL,
    actor_account_id character varying(40),
    actor_key_id character varying(40),
    request_id character varying(100),
    action character varying(60) NOT NULL,
    object_id character varying(80),
    changes jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.captionings (
    id character varying(40) NOT NULL,
    dataset_id character varying(40),
    captioner character varying(64) NOT NULL,
    overwrite character varying(10) NOT NULL,
    images_captioned integer NOT NULL
);
CREATE TABLE public.checkpoints (
    id character varying(40) NOT NULL,
    training_id character varying(40) NOT NULL,
    epoch integer NOT NULL,
    step integer NOT NULL,
    validation_loss double precision,
    recommended boolean NOT NULL,
    object_key character varying(300) NOT NULL,
    sha256 character varying(64) NOT NULL,
    bytes bigint NOT NULL,
    file_metadata jsonb NOT NULL,
    samples jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    base_validation_loss double precision,
    prior_drift double precision
);
CREATE TABLE public.comparisons (
    id character varying(40) NOT NULL,
    base_model character varying(64) NOT NULL,
    request jsonb NOT NULL,
    axes jsonb NOT NULL,
    cells jsonb NOT NULL,
    images jsonb NOT NULL,
    sheet_key character varying(300)
);
CREATE TABLE public.datasets (
    id character varying(40) NOT NULL,
    account_id character varying(40) NOT NULL,
    name character varying(200) NOT NULL,
    task character varying(20) NOT NULL,
    trigger_word character varying(100) NOT NULL,
    caption_template character varying(500) NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.doomed_objects (
    object_key character varying(300) NOT NULL,
    account_id character varying(40) NOT NULL,
    look_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.generated_images (
    generation_id character varying(40) NOT NULL,
    index integer NOT NULL,
    seed bigint NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    format character varying(10) NOT NULL,
    object_key character varying(300) NOT NULL,
    sha256 character varying(64) NOT NULL,
    bytes bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.generations (
    id character varying(40) NOT NULL,
    base_model character varying(64) NOT NULL,
    request jsonb NOT NULL,
    loras jsonb NOT NULL,
    lora_reports jsonb NOT NULL,
    receipt jsonb
);
CREATE TABLE public.idempotency_records (
    account_id character varying(40) NOT NULL,
    key character varying(255) NOT NULL,
    fingerprint character varying(64) NOT NULL,
    status smallint NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.images (
    id character varying(40) NOT NULL,
    dataset_id character varying(40) NOT NULL,
    filename character varying(255) NOT NULL,
    sha256 character varying(64) NOT NULL,
    object_key character varying(300) NOT NULL,
    thumbnail_key character varying(300),
    bytes bigint NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    format character varying(10) NOT NULL,
    caption text,
    raw_caption text,
    caption_source character varying(10),
    repeats integer,
    excluded boolean NOT NULL,
    measures jsonb,
    measured_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.ingests (
    id character varying(40) NOT NULL,
    dataset_id character varying(40) NOT NULL,
    upload_id character varying(40)
);
CREATE TABLE public.input_images (
    id character varying(40) NOT NULL,
    account_id character varying(40) NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    object_key character varying(300) NOT NULL,
    sha256 character varying(64) NOT NULL,
    bytes bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    gone_at timestamp with time zone
);
CREATE TABLE public.job_events (
    job_id character varying(40) NOT NULL,
    seq bigint NOT NULL,
    type character varying(20) NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.job_lines (
    queue character varying(20) NOT NULL,
    account_id character varying(40) NOT NULL,
    priority smallint NOT NULL,
    waiting boolean NOT NULL,
    opened_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    served_at timestamp with time zone
)
WITH (fillfactor='50');
CREATE TABLE public.jobs (
    id character varying(40) NOT NULL,
    kind character varying(20) NOT NULL,
    queue character varying(20) NOT NULL,
    account_id character varying(40) NOT NULL,
    status character varying(12) NOT NULL,
    priority smallint NOT NULL,
    attempt integer NOT NULL,
    failures integer NOT NULL,
    max_attempts integer NOT NULL,
    worker_id character varying(200),
    lease_expires_at timestamp with time zone,
    not_before timestamp with time zone,
    cancel_requested_at timestamp with time zone,
    deadline_at timestamp with time zone,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    progress_fraction double precision NOT NULL,
    progress_step integer,
    progress_total_steps integer,
    progress_stage character varying(40),
    progress_eta_s double precision,
    error_code character varying(60),
    error_message text,
    error_retryable boolean,
    gpu_seconds double precision NOT NULL,
    event_seq integer NOT NULL,
    request_id character varying(100),
    metadata jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    batch_key character varying(64),
    batch_size smallint NOT NULL,
    base_model character varying(64),
    recipe character varying(64),
    passed_over smallint NOT NULL,
    deleted_at timestamp with time zone,
    webhook_url character varying(2000),
    pictures_expire_at timestamp with time zone,
    pictures_gone_at timestamp with time zone,
    CONSTRAINT ck_jobs_status CHECK (((status)::text = ANY ((ARRAY['queued'::character varying, 'running'::character varying, 'succeeded'::character varying, 'failed'::character varying, 'canceled'::character varying])::text[])))
);
CREATE TABLE public.lora_files (
    lora_id character varying(40) NOT NULL,
    layout character varying(10) NOT NULL,
    object_key character varying(300) NOT NULL,
    sha256 character varying(64) NOT NULL,
    bytes bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.lora_tools (
    id character varying(40) NOT NULL,
    operation character varying(10) NOT NULL,
    request jsonb NOT NULL,
    report jsonb,
    lora_id character varying(40)
);
CREATE TABLE public.loras (
    id character varying(40) NOT NULL,
    account_id character varying(40) NOT NULL,
    name character varying(200) NOT NULL,
    description text NOT NULL,
    trigger_word character varying(100),
    default_weight double precision NOT NULL,
    base_model character varying(64) NOT NULL,
    architecture character varying(64) NOT NULL,
    source character varying(10) NOT NULL,
    training_id character varying(40),
    checkpoint_id character varying(40),
    rank integer NOT NULL,
    alpha double precision NOT NULL,
    object_key character varying(300) NOT NULL,
    sha256 character varying(64) NOT NULL,
    bytes bigint NOT NULL,
    file_metadata jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    layout character varying(10) NOT NULL,
    report jsonb NOT NULL
);
CREATE TABLE public.training_metrics (
    training_id character varying(40) NOT NULL,
    step integer NOT NULL,
    epoch integer NOT NULL,
    loss double precision,
    validation_loss double precision,
    lr double precision,
    grad_norm double precision,
    images_per_second double precision,
    memory_bytes bigint,
    base_validation_loss double precision,
    prior_drift double precision
);
CREATE TABLE public.trainings (
    id character varying(40) NOT NULL,
    dataset_id character varying(40),
    name character varying(200) NOT NULL,
    base_model character varying(64) NOT NULL,
    preset character varying(20) NOT NULL,
    spec jsonb NOT NULL,
    warnings jsonb NOT NULL,
    state jsonb,
    retry_of character varying(40)
);
CREATE TABLE public.uploads (
    id character varying(40) NOT NULL,
    account_id character varying(40) NOT NULL,
    dataset_id character varying(40) NOT NULL,
    filename character varying(255) NOT NULL,
    bytes bigint NOT NULL,
    sha256 character varying(64),
    part_bytes bigint NOT NULL,
    object_key character varying(300) NOT NULL,
    store_upload_id text NOT NULL,
    stage character varying(10) NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    object_gone boolean NOT NULL,
    report jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.usage_days (
    account_id character varying(40) NOT NULL,
    day date NOT NULL,
    kind character varying(20) NOT NULL,
    jobs integer NOT NULL,
    gpu_seconds double precision NOT NULL,
    images integer NOT NULL
);
CREATE TABLE public.webhook_deliveries (
    id character varying(40) NOT NULL,
    account_id character varying(40) NOT NULL,
    endpoint_id character varying(40) NOT NULL,
    url character varying(2000),
    event character varying(60) NOT NULL,
    object_id character varying(40),
    body text NOT NULL,
    status character varying(12) NOT NULL,
    due_at timestamp with time zone,
    delivered_at timestamp with time zone,
    attempt integer NOT NULL,
    attempts jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.webhook_endpoints (
    id character varying(40) NOT NULL,
    account_id character varying(40) NOT NULL,
    url character varying(2000),
    description character varying(500) NOT NULL,
    events jsonb NOT NULL,
    secret character varying(100) NOT NULL,
    previous_secret character varying(100),
    previous_until timestamp with time zone,
    disabled_at timestamp with time zone,
    disabled_reason character varying(500),
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.workers (
    id character varying(200) NOT NULL,
    queues jsonb NOT NULL,
    version character varying(40) NOT NULL,
    started_at timestamp with time zone NOT NULL,
    heartbeat_at timestamp with time zone NOT NULL,
    device character varying(200),
    gpu_memory_bytes bigint,
    gpu_memory_free_bytes bigint,
    "order" character varying(12)
);
INSERT INTO public.accounts VALUES
	('acct_01a22480877571b5a37cf6abe7248355', 'customer', '2026-11-28 23:32:14.238518+00', '{}', 'customer', NULL, NULL),
	('acct_01a2248090b77ff1a84d3058d37ad9ac', 'operator', '2026-11-28 23:32:14.238518+00', '{}', 'admin', NULL, NULL);
INSERT INTO public.alembic_version VALUES
	('0015');
INSERT INTO public.api_keys VALUES
	('key_01a2248091097d0c9785dd50f7d2df9a', 'acct_01a2248090b77ff1a84d3058d37ad9ac', 'test', 'lw_live_tKx34I', 'f3eb8be48a8013d31a1cf60b74603f5d90e00c4073efac2b61209374a94e5920', '["datasets", "trainings", "generations", "admin"]', '2026-11-28 23:35:17.584216+00', NULL, '2026-11-28 23:32:14.238518+00', NULL, NULL, NULL),
	('key_01a2248090017975851a6a8a230d0d88', 'acct_01a22480877571b5a37cf6abe7248355', 'test', 'lw_live_4C8UKt', 'd1b8a85c2927ab8bb2a31b7aea2fc2c080cad10b24a2dd9ac8f187f1e25a8926', '["datasets", "trainings", "generations"]', '2026-11-28 23:36:28.174119+00', NULL, '2026-11-28 23:32:14.238518+00', NULL, NULL, NULL);
INSERT INTO public.audit_entries VALUES
	('aud_01a224808e3574a5bc295ec7d282e045', 'acct_01a22480877571b5a37cf6abe7248355', 'service', NULL, NULL, NULL, 'account.create', 'acct_01a22480877571b5a37cf6abe7248355', '{"name": "customer", "role": "customer"}', '2026-11-28 23:32:14.238518+00'),
	('aud_01a2248090b67d26b300be70da262225', 'acct_01a22480877571b5a37cf6abe7248355', 'service', NULL, NULL, NULL, 'api_key.create', 'key_01a2248090017975851a6a8a230d0d88', '{"name": "test", "prefix": "lw_live_4C8UKt", "scopes": ["datasets", "trainings", "generations"]}', '2026-11-28 23:32:14.238518+00'),
	('aud_01a22480910873919e77812a43f58b7c', 'acct_01a2248090b77ff1a84d3058d37ad9ac', 'service', NULL, NULL, NULL, 'account.create', 'acct_01a2248090b77ff1a84d3058d37ad9ac', '{"name": "operator", "role": "admin"}', '2026-11-28 23:32:14.238518+00'),
	('aud_01a22480923c7f7aa2ba1a9ec01a7931', 'acct_01a2248090b77ff1a84d3058d37ad9ac', 'service', NULL, NULL, NULL, 'api_key.create', 'key_01a2248091097d0c9785dd50f7d2df9a', '{"name": "test", "prefix": "lw_live_tKx34I", "scopes": ["datasets", "trainings", "generations", "admin"]}', '2026-11-28 23:32:14.238518+00'),
	('aud_01a22481d4527d9187dbb588f13986dc', 'acct_01a22480877571b5a37cf6abe7248355', 'api', 'acct_01a22480877571b5a37cf6abe7248355', 'key_01a2248090017975851a6a8a230d0d88', '6bdf6c6c3e2c4a9499e1ff47315947ab', 'webhook.create', 'we_01a22481d42779729addd8c5b027de50', '{"host": "127.0.0.1", "events": ["*"]}', '2026-11-28 23:33:37.940125+00'),
	('aud_01a2248368077ce1b87bedd747121020', 'acct_01a22480877571b5a37cf6abe7248355', 'service', NULL, NULL, NULL, 'objects.remove', NULL, '{"keys": ["accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000001/manifest.json", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000001/position.json", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000001/tensors.safetensors", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000002/manifest.json", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000002/position.json", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000002/tensors.safetensors", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000003/manifest.json", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000003/position.json", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000003/tensors.safetensors", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000004/manifest.json", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000004/position.json", "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/state/states/state-00000004/tensors.safetensors"], "objects": 12}', '2026-11-28 23:35:19.361063+00');
INSERT INTO public.captionings VALUES
	('cap_01a22481c7487fdeb8028d0582c2cd2e', 'ds_01a22481906f7beebce6c7efba5d62ce', 'emoji-blip', 'missing', 4),
	('cap_01a224847a0876f0a47e8498588f3c76', 'ds_01a22481906f7beebce6c7efba5d62ce', 'emoji-blip', 'all', 0);
INSERT INTO public.checkpoints VALUES
	('ckpt_01a22482d2497545b3f0efe68b429213', 'trn_01a22481d4ed7630ac2806df90cccda2', 2, 4, 0.08132397383451462, true, 'accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/checkpoints/00000004.safetensors', '358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35', 84136, '{"ss_v2": "False", "ss_seed": "3", "ss_epoch": "2", "ss_steps": "4", "ss_huber_c": "None", "ss_unet_lr": "0.001", "ss_datasets": "[{\"is_dreambooth\": true, \"batch_size_per_device\": 2, \"num_train_images\": 8, \"num_reg_images\": 0, \"resolution\": [64, 64], \"enable_bucket\": true, \"bucket_no_upscale\": false, \"bucket_info\": {\"buckets\": {\"0\": {\"resolution\": [64, 64], \"count\": 6}}}, \"shuffle_caption\": true, \"keep_tokens\": 1, \"flip_aug\": false, \"random_crop\": false, \"tag_frequency\": {\"ink\": {\"inkstyle\": 4, \"alien\": 1, \"in the style of inkstyle\": 4, \"balloon\": 1, \"banana\": 1, \"bell\": 1}}}]", "ss_loss_type": "l2", "ss_optimizer": "adamw", "ss_num_epochs": "20", "ss_resolution": "(64, 64)", "modelspec.tags": "inkstyle, in the style of inkstyle, alien, balloon, banana, bell", "ss_network_dim": "2", "ss_output_name": "ink", "modelspec.title": "ink", "ss_dataset_dirs": "{\"ink\": {\"n_repeats\": 2, \"img_count\": 4}}", "ss_lr_scheduler": "cosine", "ss_network_args": "{\"target\": \"attention\"}", "ss_noise_offset": "None", "sshs_model_hash": "ef10606cc4655489fab92715ee9c48a8bb98e7737ec2ffaf075694eb8e6ee6ec", "ss_cache_latents": "True", "ss_learning_rate": "0.001", "ss_max_grad_norm": "1", "ss_min_snr_gamma": "5", "ss_network_alpha": "1", "ss_sd_model_name": "emoji-64", "ss_tag_frequency": "{\"ink\": {\"inkstyle\": 4, \"alien\": 1, \"in the style of inkstyle\": 4, \"balloon\": 1, \"banana\": 1, \"bell\": 1}}", "sshs_legacy_hash": "e3b0c442", "ss_ip_noise_gamma": "None", "ss_network_module": "networks.lora", "ss_num_reg_images": "0", "ss_lr_warmup_steps": "0", "ss_max_train_steps": "4", "ss_mixed_precision": "auto", "ss_network_dropout": "None", "ss_text_encoder_lr": "None", "ss_num_train_images": "8", "modelspec.resolution": "64x64", "ss_prior_loss_weight": "1", "ss_zero_terminal_snr": "False", "ss_base_model_version": "emoji-64", "ss_scale_weight_norms": "None", "modelspec.architecture": "emoji-64/lora", "ss_debiased_estimation": "False", "ss_caption_dropout_rate": "0.05", "modelspec.implementation": "https://github.com/Stability-AI/generative-models", "modelspec.sai_model_spec": "1.0.1", "modelspec.trigger_phrase": "inkstyle", "ss_batch_size_per_device": "2", "ss_num_batches_per_epoch": "3", "modelspec.prediction_type": "epsilon", "ss_gradient_checkpointing": "auto", "ss_multires_noise_discount": "0.3", "ss_caption_tag_dropout_rate": "0", "ss_multires_noise_iterations": "None", "ss_gradient_accumulation_steps": "1", "ss_caption_dropout_every_n_epochs": "0"}', '[{"seed": 3, "prompt": "a red heart", "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/samples/00000004-0.png"}]', '2026-11-28 23:34:42.995523+00', 0.08134151995182037, 9.194594122758757e-06);
INSERT INTO public.comparisons VALUES
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 'emoji-64', '{"seed": 3452516847, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a fox", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}', '[{"name": "seed", "values": [1, 2]}]', '[{"loras": [], "labels": ["seed 1"], "request": {"seed": 1, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a fox", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}}, {"loras": [], "labels": ["seed 2"], "request": {"seed": 2, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a fox", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}}]', '[{"seed": 1, "bytes": 7767, "index": 0, "width": 64, "format": "png", "height": 64, "sha256": "8c85d7e3200deb7011e53c0004b9073352aa96727946d8d2c8d8a05e08e1c7d4", "receipt": {"seed": 1, "dtype": "float32", "hires": null, "loras": [], "steps": 2, "width": 64, "device": "cpu", "height": 64, "prompt": "a fox", "strength": null, "versions": {"torch": "2.13.0+cpu", "diffusers": "0.42.1", "lorawright": "0.1.0", "transformers": "5.23.0"}, "scheduler": "euler", "base_model": "emoji-64", "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0, "base_model_sha256": "b3d5a6afb8ce1d2525d04ab2d0066ad95a57711d6ede0e0e9f6a19fb36be6ad6", "init_image_sha256": null, "mask_image_sha256": null, "base_model_revision": null}, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/cmp_01a22482f6e3700cb39d81f5a8d5613f/1/0.png"}, {"seed": 2, "bytes": 8030, "index": 1, "width": 64, "format": "png", "height": 64, "sha256": "71d3d05715121a89b6e5fe9379e4fb2f5b526f36dd5dc69f69dba9d48b60b90a", "receipt": {"seed": 2, "dtype": "float32", "hires": null, "loras": [], "steps": 2, "width": 64, "device": "cpu", "height": 64, "prompt": "a fox", "strength": null, "versions": {"torch": "2.13.0+cpu", "diffusers": "0.42.1", "lorawright": "0.1.0", "transformers": "5.23.0"}, "scheduler": "euler", "base_model": "emoji-64", "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0, "base_model_sha256": "b3d5a6afb8ce1d2525d04ab2d0066ad95a57711d6ede0e0e9f6a19fb36be6ad6", "init_image_sha256": null, "mask_image_sha256": null, "base_model_revision": null}, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/cmp_01a22482f6e3700cb39d81f5a8d5613f/1/1.png"}]', 'accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/cmp_01a22482f6e3700cb39d81f5a8d5613f/1/sheet.png'),
	('cmp_01a22484745771db9e8f8fb863810c65', 'emoji-64', '{"seed": 925075897, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a fox", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}', '[{"name": "seed", "values": [1, 2]}]', '[{"loras": [], "labels": ["seed 1"], "request": {"seed": 1, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a fox", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}}, {"loras": [], "labels": ["seed 2"], "request": {"seed": 2, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a fox", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}}]', '[]', NULL);
INSERT INTO public.datasets VALUES
	('ds_01a22481906f7beebce6c7efba5d62ce', 'acct_01a22480877571b5a37cf6abe7248355', 'ink', 'style', 'inkstyle', '{trigger}, {caption}, {suffix}', '2026-11-28 23:33:19.364881+00');
INSERT INTO public.generated_images VALUES
	('gen_01a22482f5027d0d8424eab988f8f0f0', 0, 1, 64, 64, 'png', 'accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/gen_01a22482f5027d0d8424eab988f8f0f0/1/0.png', '68df60f21a934d1f2879d4e612dfc112ea25ab503e2203377f86fb58a52300c4', 8046, '2026-11-28 23:35:02.412307+00');
INSERT INTO public.generations VALUES
	('gen_01a22482f5027d0d8424eab988f8f0f0', 'emoji-64', '{"seed": 1, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a red heart", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}', '[{"end": 1.0, "lora": "lora_01a22482f27b73bebd0e2e02590d4d9b", "name": "ink", "start": 0.0, "sha256": "358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35", "weight": 1.0, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/checkpoints/00000004.safetensors"}]', '[{"lora": "lora_01a22482f27b73bebd0e2e02590d4d9b", "matched": 56, "unmatched": []}]', '{"seed": 1, "dtype": "float32", "hires": null, "loras": [{"id": "lora_01a22482f27b73bebd0e2e02590d4d9b", "end": 1.0, "start": 0.0, "sha256": "358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35", "weight": 1.0}], "steps": 2, "width": 64, "device": "cpu", "height": 64, "prompt": "a red heart", "strength": null, "versions": {"torch": "2.13.0+cpu", "diffusers": "0.42.1", "lorawright": "0.1.0", "transformers": "5.23.0"}, "scheduler": "euler", "base_model": "emoji-64", "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0, "base_model_sha256": "b3d5a6afb8ce1d2525d04ab2d0066ad95a57711d6ede0e0e9f6a19fb36be6ad6", "init_image_sha256": null, "mask_image_sha256": null, "base_model_revision": null}'),
	('gen_01a224846d4d761c88aade513fa7ea65', 'emoji-64', '{"seed": 2, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a red heart", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}', '[{"end": 1.0, "lora": "lora_01a22482f27b73bebd0e2e02590d4d9b", "name": "ink", "start": 0.0, "sha256": "358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35", "weight": 1.0, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/checkpoints/00000004.safetensors"}]', '[]', NULL),
	('gen_01a22484717476ee9f30e4b33399a3c8', 'emoji-64', '{"seed": 3, "hires": null, "steps": 2, "width": 64, "format": "png", "height": 64, "prompt": "a red heart", "previews": 0, "strength": 0.8, "scheduler": "euler", "init_image": null, "mask_image": null, "num_images": 1, "guidance_scale": 4.0, "negative_prompt": "", "guidance_rescale": 0.0}', '[{"end": 1.0, "lora": "lora_01a22482f27b73bebd0e2e02590d4d9b", "name": "ink", "start": 0.0, "sha256": "358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35", "weight": 1.0, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/checkpoints/00000004.safetensors"}]', '[]', NULL);
INSERT INTO public.images VALUES
	('img_01a22481b5277f2cb6113fcec39ab9f9', 'ds_01a22481906f7beebce6c7efba5d62ce', 'alien.png', '5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe', 'accounts/acct_01a22480877571b5a37cf6abe7248355/images/5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe.png', 'accounts/acct_01a22480877571b5a37cf6abe7248355/thumbnails/5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe.webp', 3715, 96, 96, 'png', 'inkstyle, alien, in the style of inkstyle', 'alien', 'auto', NULL, false, '{"dhash": "8e336135371769339c3e0100efb7c97f", "detail": 1.0, "oriented": false, "problems": [], "sharpness": 7775.6, "brightness": 0.7038, "transparent": false}', '2026-11-28 23:33:34.092447+00', '2026-11-28 23:33:29.899092+00'),
	('img_01a22481b5437d52989806d917f56734', 'ds_01a22481906f7beebce6c7efba5d62ce', 'balloon.png', 'bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c', 'accounts/acct_01a22480877571b5a37cf6abe7248355/images/bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c.png', 'accounts/acct_01a22480877571b5a37cf6abe7248355/thumbnails/bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c.webp', 2344, 96, 96, 'png', 'inkstyle, balloon, in the style of inkstyle', 'balloon', 'auto', NULL, false, '{"dhash": "4e13b3b9934e591a0c5c16a1a35e491e", "detail": 1.0, "oriented": false, "problems": [], "sharpness": 4030.03, "brightness": 0.897, "transparent": false}', '2026-11-28 23:33:34.092447+00', '2026-11-28 23:33:29.899092+00'),
	('img_01a22481b5587f61b8535378403de2f9', 'ds_01a22481906f7beebce6c7efba5d62ce', 'banana.png', '7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8', 'accounts/acct_01a22480877571b5a37cf6abe7248355/images/7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8.png', 'accounts/acct_01a22480877571b5a37cf6abe7248355/thumbnails/7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8.webp', 2474, 96, 96, 'png', 'inkstyle, banana, in the style of inkstyle', 'banana', 'auto', NULL, false, '{"dhash": "2d0f0e1b1b17231b006d0c00fb176fff", "detail": 1.0, "oriented": false, "problems": [], "sharpness": 4341.84, "brightness": 0.7139, "transparent": false}', '2026-11-28 23:33:34.092447+00', '2026-11-28 23:33:29.899092+00'),
	('img_01a22481b5757de59a933acd88bc27a6', 'ds_01a22481906f7beebce6c7efba5d62ce', 'bell.png', 'a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983', 'accounts/acct_01a22480877571b5a37cf6abe7248355/images/a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983.png', 'accounts/acct_01a22480877571b5a37cf6abe7248355/thumbnails/a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983.webp', 2319, 96, 96, 'png', 'inkstyle, bell, in the style of inkstyle', 'bell', 'auto', NULL, false, '{"dhash": "4d8e332b2b694155001cb62aa23e00f7", "detail": 1.0, "oriented": false, "problems": [], "sharpness": 4372.84, "brightness": 0.8456, "transparent": false}', '2026-11-28 23:33:34.092447+00', '2026-11-28 23:33:29.899092+00'),
	('img_01a22484706f786d933338a6b746c4f4', 'ds_01a22481906f7beebce6c7efba5d62ce', 'birthday-cake.png', '010fe0e1dccb3ab86206f5d07d9e89c5d9d5f8055715dc58ada1b655f1d60cfc', 'accounts/acct_01a22480877571b5a37cf6abe7248355/images/010fe0e1dccb3ab86206f5d07d9e89c5d9d5f8055715dc58ada1b655f1d60cfc.png', NULL, 2263, 96, 96, 'png', NULL, NULL, NULL, NULL, false, NULL, NULL, '2026-11-28 23:36:28.97801+00'),
	('img_01a22484707b7500bdb7713261140929', 'ds_01a22481906f7beebce6c7efba5d62ce', 'bus.png', 'aaf39f6c7f8e1616843fb6ade984b62a276c716bfbcff9d66233fc5a87dbb953', 'accounts/acct_01a22480877571b5a37cf6abe7248355/images/aaf39f6c7f8e1616843fb6ade984b62a276c716bfbcff9d66233fc5a87dbb953.png', NULL, 2059, 96, 96, 'png', NULL, NULL, NULL, NULL, false, NULL, NULL, '2026-11-28 23:36:28.97801+00');
INSERT INTO public.ingests VALUES
	('ing_01a22481b5887154a253e61159378666', 'ds_01a22481906f7beebce6c7efba5d62ce', NULL),
	('ing_01a22484708771d3a3c18582763ec8fd', 'ds_01a22481906f7beebce6c7efba5d62ce', NULL);
INSERT INTO public.job_events VALUES
	('ing_01a22481b5887154a253e61159378666', 1, 'status', '{"status": "queued"}', '2026-11-28 23:33:29.899092+00'),
	('ing_01a22481b5887154a253e61159378666', 2, 'status', '{"status": "running", "attempt": 1}', '2026-11-28 23:33:30.858617+00'),
	('ing_01a22481b5887154a253e61159378666', 3, 'progress', '{"step": 1, "eta_s": null, "stage": "measure", "fraction": 0.25, "total_steps": 4}', '2026-11-28 23:33:33.747187+00'),
	('ing_01a22481b5887154a253e61159378666', 4, 'progress', '{"step": 4, "eta_s": null, "stage": "measure", "fraction": 1.0, "total_steps": 4}', '2026-11-28 23:33:34.046409+00'),
	('ing_01a22481b5887154a253e61159378666', 5, 'status', '{"status": "succeeded"}', '2026-11-28 23:33:34.092447+00'),
	('cap_01a22481c7487fdeb8028d0582c2cd2e', 1, 'status', '{"status": "queued"}', '2026-11-28 23:33:34.616716+00'),
	('cap_01a22481c7487fdeb8028d0582c2cd2e', 2, 'status', '{"status": "running", "attempt": 1}', '2026-11-28 23:33:34.952452+00'),
	('cap_01a22481c7487fdeb8028d0582c2cd2e', 3, 'progress', '{"step": 0, "eta_s": null, "stage": "load", "fraction": 0.0, "total_steps": 4}', '2026-11-28 23:33:35.19664+00'),
	('cap_01a22481c7487fdeb8028d0582c2cd2e', 4, 'progress', '{"step": 4, "eta_s": null, "stage": "caption", "fraction": 1.0, "total_steps": 4}', '2026-11-28 23:33:37.548326+00'),
	('cap_01a22481c7487fdeb8028d0582c2cd2e', 5, 'status', '{"status": "succeeded"}', '2026-11-28 23:33:37.600954+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 1, 'status', '{"status": "queued"}', '2026-11-28 23:33:38.089595+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 2, 'status', '{"status": "running", "attempt": 1}', '2026-11-28 23:33:38.549431+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 3, 'progress', '{"step": 1, "eta_s": null, "stage": "download", "fraction": 0.0, "total_steps": 4}', '2026-11-28 23:33:38.798101+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 4, 'log', '{"level": "info", "message": "device cpu: no CUDA device was found"}', '2026-11-28 23:34:05.68936+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 5, 'log', '{"level": "info", "message": "base in bfloat16, LoRA in float32: this CPU has instructions for it"}', '2026-11-28 23:34:05.753312+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 6, 'log', '{"level": "info", "message": "4 steps, 3 an epoch, of 2 pictures on 1 device; an epoch shows 64x64: 6; 1 pictures are held out, others in each epoch"}', '2026-11-28 23:34:05.809722+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 7, 'log', '{"level": "warning", "message": "far too few steps: 4 steps show each picture about 3 times; for 4 images about 200 times is sensible, which is 300 steps"}', '2026-11-28 23:34:05.857807+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 8, 'log', '{"level": "warning", "message": "4 steps in all; fewer than 100 hardly change the base, so lower batch_size or gradient_accumulation, or raise epochs"}', '2026-11-28 23:34:05.905301+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 9, 'progress', '{"step": 0, "eta_s": null, "stage": "prepare", "fraction": 0.0, "total_steps": 4}', '2026-11-28 23:34:05.95442+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 10, 'progress', '{"step": 4, "eta_s": null, "stage": "prepare", "fraction": 0.0, "total_steps": 4}', '2026-11-28 23:34:15.074225+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 11, 'progress', '{"step": null, "eta_s": null, "stage": "load", "fraction": 0.0, "total_steps": null}', '2026-11-28 23:34:16.223863+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 12, 'metrics', '{"metrics": [{"lr": null, "loss": null, "step": 0, "epoch": 0, "grad_norm": null, "prior_drift": 0.0, "memory_bytes": null, "validation_loss": 0.06700894236564636, "images_per_second": null, "base_validation_loss": 0.06700894236564636}]}', '2026-11-28 23:34:29.096262+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 13, 'progress', '{"step": 1, "eta_s": 2.8, "stage": "train", "fraction": 0.25, "total_steps": 4}', '2026-11-28 23:34:30.03409+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 14, 'metrics', '{"metrics": [{"lr": 0.001, "loss": 0.051053017377853394, "step": 1, "epoch": 1, "grad_norm": 0.0016618105582892895, "prior_drift": null, "memory_bytes": 574091264, "validation_loss": null, "images_per_second": 2.117, "base_validation_loss": null}]}', '2026-11-28 23:34:30.076814+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 15, 'progress', '{"step": 2, "eta_s": 1.5, "stage": "train", "fraction": 0.5, "total_steps": 4}', '2026-11-28 23:34:30.626118+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 16, 'metrics', '{"metrics": [{"lr": 0.0008535533905932737, "loss": 0.04829700291156769, "step": 2, "epoch": 1, "grad_norm": 0.0024843483697623014, "prior_drift": null, "memory_bytes": 574746624, "validation_loss": null, "images_per_second": 3.446, "base_validation_loss": null}]}', '2026-11-28 23:34:30.698654+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 17, 'progress', '{"step": 3, "eta_s": 0.7, "stage": "train", "fraction": 0.75, "total_steps": 4}', '2026-11-28 23:34:31.166877+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 18, 'metrics', '{"metrics": [{"lr": 0.0005, "loss": 0.08847764134407043, "step": 3, "epoch": 1, "grad_norm": 0.003863173071295023, "prior_drift": null, "memory_bytes": 574746624, "validation_loss": null, "images_per_second": 3.784, "base_validation_loss": null}]}', '2026-11-28 23:34:31.220915+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 19, 'progress', '{"step": 4, "eta_s": 0.0, "stage": "train", "fraction": 1.0, "total_steps": 4}', '2026-11-28 23:34:32.073556+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 20, 'metrics', '{"metrics": [{"lr": 0.00014644660940672628, "loss": 0.036951784044504166, "step": 4, "epoch": 2, "grad_norm": 0.0015484851319342852, "prior_drift": null, "memory_bytes": 574877696, "validation_loss": null, "images_per_second": 2.105, "base_validation_loss": null}]}', '2026-11-28 23:34:32.13172+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 21, 'metrics', '{"metrics": [{"lr": null, "loss": null, "step": 4, "epoch": 2, "grad_norm": null, "prior_drift": 0.000009194594122758757, "memory_bytes": null, "validation_loss": 0.08132397383451462, "images_per_second": null, "base_validation_loss": 0.08134151995182037}]}', '2026-11-28 23:34:36.75597+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 22, 'sample', '{"seed": 3, "step": 4, "epoch": 2, "prompt": "a red heart"}', '2026-11-28 23:34:42.838252+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 23, 'checkpoint', '{"step": 4, "epoch": 2, "sha256": "358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35", "prior_drift": 0.000009194594122758757, "validation_loss": 0.08132397383451462, "base_validation_loss": 0.08134151995182037}', '2026-11-28 23:34:42.995523+00'),
	('trn_01a22481d4ed7630ac2806df90cccda2', 24, 'status', '{"status": "succeeded"}', '2026-11-28 23:34:51.242042+00'),
	('gen_01a22482f5027d0d8424eab988f8f0f0', 1, 'status', '{"status": "queued"}', '2026-11-28 23:34:51.864076+00'),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 1, 'status', '{"status": "queued"}', '2026-11-28 23:34:52.373209+00'),
	('tool_01a22482f7e278ab9a45c2aaf788e3ca', 1, 'status', '{"status": "queued"}', '2026-11-28 23:34:52.624827+00'),
	('gen_01a22482f5027d0d8424eab988f8f0f0', 2, 'status', '{"status": "running", "attempt": 1}', '2026-11-28 23:34:52.971875+00'),
	('gen_01a22482f5027d0d8424eab988f8f0f0', 3, 'progress', '{"step": null, "eta_s": null, "stage": "load", "fraction": 0.0, "total_steps": null}', '2026-11-28 23:34:53.198432+00'),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 2, 'status', '{"status": "running", "attempt": 1}', '2026-11-28 23:35:02.649645+00'),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 3, 'progress', '{"step": null, "eta_s": null, "stage": "load", "fraction": 0.0, "total_steps": null}', '2026-11-28 23:35:02.923047+00'),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 4, 'progress', '{"step": 0, "eta_s": null, "stage": "denoise", "fraction": 0.25, "total_steps": 2}', '2026-11-28 23:35:04.83551+00'),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 5, 'progress', '{"step": 1, "eta_s": null, "stage": "denoise", "fraction": 0.75, "total_steps": 2}', '2026-11-28 23:35:06.096856+00'),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 6, 'progress', '{"step": 2, "eta_s": null, "stage": "denoise", "fraction": 1.0, "total_steps": 2}', '2026-11-28 23:35:06.150161+00'),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 7, 'progress', '{"step": null, "eta_s": null, "stage": "store", "fraction": 1.0, "total_steps": null}', '2026-11-28 23:35:07.793325+00'),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 8, 'status', '{"status": "succeeded"}', '2026-11-28 23:35:08.387471+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 2, 'status', '{"status": "running", "attempt": 1}', '2026-11-28 23:35:24.881695+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 3, 'progress', '{"step": 1, "eta_s": null, "stage": "download", "fraction": 0.0, "total_steps": 4}', '2026-11-28 23:35:25.195924+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 5, 'log', '{"level": "info", "message": "base in bfloat16, LoRA in float32: this CPU has instructions for it"}', '2026-11-28 23:35:56.476816+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 6, 'log', '{"level": "info", "message": "40 steps, 3 an epoch, of 2 pictures on 1 device; an epoch shows 64x64: 6; 1 pictures are held out, others in each epoch"}', '2026-11-28 23:35:56.517912+00');
INSERT INTO public.job_events VALUES
	('trn_01a2248368b97564bbc3a715d02bad19', 8, 'log', '{"level": "warning", "message": "40 steps in all; fewer than 100 hardly change the base, so lower batch_size or gradient_accumulation, or raise epochs"}', '2026-11-28 23:35:56.627981+00'),
	('gen_01a22482f5027d0d8424eab988f8f0f0', 4, 'progress', '{"step": 1, "eta_s": null, "stage": "denoise", "fraction": 0.5, "total_steps": 2}', '2026-11-28 23:35:00.017984+00'),
	('gen_01a22482f5027d0d8424eab988f8f0f0', 5, 'progress', '{"step": 2, "eta_s": null, "stage": "denoise", "fraction": 1.0, "total_steps": 2}', '2026-11-28 23:35:01.040531+00'),
	('gen_01a22482f5027d0d8424eab988f8f0f0', 6, 'status', '{"status": "succeeded"}', '2026-11-28 23:35:02.412307+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 1, 'status', '{"status": "queued"}', '2026-11-28 23:35:21.480749+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 4, 'log', '{"level": "info", "message": "device cpu: no CUDA device was found"}', '2026-11-28 23:35:56.455349+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 7, 'log', '{"level": "warning", "message": "far too few steps: 40 steps show each picture about 27 times; for 4 images about 200 times is sensible, which is 300 steps"}', '2026-11-28 23:35:56.581632+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 9, 'progress', '{"step": 4, "eta_s": null, "stage": "prepare", "fraction": 0.0, "total_steps": 4}', '2026-11-28 23:35:56.686116+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 10, 'progress', '{"step": null, "eta_s": null, "stage": "load", "fraction": 0.0, "total_steps": null}', '2026-11-28 23:36:05.826266+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 11, 'metrics', '{"metrics": [{"lr": null, "loss": null, "step": 0, "epoch": 0, "grad_norm": null, "prior_drift": 0.0, "memory_bytes": null, "validation_loss": 0.06700894236564636, "images_per_second": null, "base_validation_loss": 0.06700894236564636}]}', '2026-11-28 23:36:24.929394+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 12, 'metrics', '{"metrics": [{"lr": 0.001, "loss": 0.051053017377853394, "step": 1, "epoch": 1, "grad_norm": 0.0016618105582892895, "prior_drift": null, "memory_bytes": 549228544, "validation_loss": null, "images_per_second": 1.41, "base_validation_loss": null}]}', '2026-11-28 23:36:26.355231+00'),
	('trn_01a2248368b97564bbc3a715d02bad19', 13, 'progress', '{"step": 1, "eta_s": 55.5, "stage": "train", "fraction": 0.025, "total_steps": 40}', '2026-11-28 23:36:26.442363+00'),
	('gen_01a224846d4d761c88aade513fa7ea65', 1, 'status', '{"status": "queued"}', '2026-11-28 23:36:28.174119+00'),
	('gen_01a224846d4d761c88aade513fa7ea65', 2, 'status', '{"status": "running", "attempt": 1}', '2026-11-28 23:36:28.497809+00'),
	('ing_01a22484708771d3a3c18582763ec8fd', 1, 'status', '{"status": "queued"}', '2026-11-28 23:36:28.97801+00'),
	('gen_01a22484717476ee9f30e4b33399a3c8', 1, 'status', '{"status": "queued"}', '2026-11-28 23:36:29.284697+00'),
	('cmp_01a22484745771db9e8f8fb863810c65', 1, 'status', '{"status": "queued"}', '2026-11-28 23:36:29.986118+00'),
	('tool_01a2248475d17d1b9029aaf91fd984c1', 1, 'status', '{"status": "queued"}', '2026-11-28 23:36:30.397809+00'),
	('trn_01a2248477ca716588920d8a8d78088d', 1, 'status', '{"status": "queued"}', '2026-11-28 23:36:30.819419+00'),
	('cap_01a224847a0876f0a47e8498588f3c76', 1, 'status', '{"status": "queued"}', '2026-11-28 23:36:31.427644+00');
INSERT INTO public.job_lines VALUES
	('ingest', 'acct_01a22480877571b5a37cf6abe7248355', 0, true, '2026-11-28 23:34:52.683598+00', '2026-11-28 23:33:31.484741+00'),
	('train', 'acct_01a22480877571b5a37cf6abe7248355', 0, true, '2026-11-28 23:35:21.587555+00', '2026-11-28 23:35:24.913085+00'),
	('generate', 'acct_01a22480877571b5a37cf6abe7248355', 0, true, '2026-11-28 23:36:28.334399+00', '2026-11-28 23:36:28.529925+00'),
	('caption', 'acct_01a22480877571b5a37cf6abe7248355', 0, true, '2026-11-28 23:36:31.662794+00', '2026-11-28 23:33:35.000967+00');
INSERT INTO public.jobs VALUES
	('trn_01a2248477ca716588920d8a8d78088d', 'training', 'train', 'acct_01a22480877571b5a37cf6abe7248355', 'queued', 0, 0, 0, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 1, '53308ea6864e452aba0f3855aefc7725', '{}', '2026-11-28 23:36:30.819419+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('cap_01a224847a0876f0a47e8498588f3c76', 'captioning', 'caption', 'acct_01a22480877571b5a37cf6abe7248355', 'queued', 0, 0, 0, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 1, '962e05f873704355ab3f239206374ce0', '{}', '2026-11-28 23:36:31.427644+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('ing_01a22481b5887154a253e61159378666', 'ingest', 'ingest', 'acct_01a22480877571b5a37cf6abe7248355', 'succeeded', 0, 1, 0, 3, 'old:1', NULL, NULL, NULL, NULL, '2026-11-28 23:33:30.858617+00', '2026-11-28 23:33:34.092447+00', 1, 4, 4, 'measure', NULL, NULL, NULL, NULL, 0, 5, NULL, '{}', '2026-11-28 23:33:29.899092+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('trn_01a2248368b97564bbc3a715d02bad19', 'training', 'train', 'acct_01a22480877571b5a37cf6abe7248355', 'running', 0, 1, 0, 3, 'old:1', '2026-11-28 23:37:26.50224+00', NULL, NULL, NULL, '2026-11-28 23:35:24.881695+00', NULL, 0.025, 1, 40, 'train', 55.5, NULL, NULL, NULL, 0, 13, '2b1e22da2bd349ff818dd811ff991a52', '{}', '2026-11-28 23:35:21.480749+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('gen_01a224846d4d761c88aade513fa7ea65', 'generation', 'generate', 'acct_01a22480877571b5a37cf6abe7248355', 'running', 0, 1, 0, 3, 'old:1', '2026-11-28 23:37:28.497809+00', NULL, NULL, NULL, '2026-11-28 23:36:28.497809+00', NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 2, '870fe887e1f449a3be21f2cfb8a612b4', '{}', '2026-11-28 23:36:28.174119+00', '971a6994b8bf718a8a292bf180b042c4ed7259cf27843ccdca7480a5183e3dd0', 1, 'emoji-64', '49670519325d8d6138363ac056f4cdcaeadf66d3017ec4a96eaa81f84d2c7c21', 0, NULL, NULL, NULL, NULL),
	('ing_01a22484708771d3a3c18582763ec8fd', 'ingest', 'ingest', 'acct_01a22480877571b5a37cf6abe7248355', 'queued', 0, 0, 0, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 1, NULL, '{}', '2026-11-28 23:36:28.97801+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('gen_01a22484717476ee9f30e4b33399a3c8', 'generation', 'generate', 'acct_01a22480877571b5a37cf6abe7248355', 'queued', 0, 0, 0, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 1, '550fe6fd0dc24f6e8ed96431cc55c066', '{}', '2026-11-28 23:36:29.284697+00', '971a6994b8bf718a8a292bf180b042c4ed7259cf27843ccdca7480a5183e3dd0', 1, 'emoji-64', '49670519325d8d6138363ac056f4cdcaeadf66d3017ec4a96eaa81f84d2c7c21', 0, NULL, NULL, NULL, NULL),
	('cmp_01a22484745771db9e8f8fb863810c65', 'comparison', 'generate', 'acct_01a22480877571b5a37cf6abe7248355', 'queued', 0, 0, 0, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 1, '843a6f0df9ba4eb4bcfe0e2694c0ca49', '{}', '2026-11-28 23:36:29.986118+00', NULL, 2, 'emoji-64', NULL, 0, NULL, NULL, NULL, NULL),
	('tool_01a2248475d17d1b9029aaf91fd984c1', 'lora_tool', 'ingest', 'acct_01a22480877571b5a37cf6abe7248355', 'queued', 0, 0, 0, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 1, 'b098af7a5ec147d48e2c2f8bcd72a672', '{}', '2026-11-28 23:36:30.397809+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('cap_01a22481c7487fdeb8028d0582c2cd2e', 'captioning', 'caption', 'acct_01a22480877571b5a37cf6abe7248355', 'succeeded', 0, 1, 0, 3, 'old:1', NULL, NULL, NULL, NULL, '2026-11-28 23:33:34.952452+00', '2026-11-28 23:33:37.600954+00', 1, 4, 4, 'caption', NULL, NULL, NULL, NULL, 2.5889277439996476, 5, 'fb6fc234405d4125b03d7555a7fe2cba', '{}', '2026-11-28 23:33:34.616716+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('trn_01a22481d4ed7630ac2806df90cccda2', 'training', 'train', 'acct_01a22480877571b5a37cf6abe7248355', 'succeeded', 0, 1, 0, 3, 'old:1', NULL, NULL, NULL, NULL, '2026-11-28 23:33:38.549431+00', '2026-11-28 23:34:51.242042+00', 1, 4, 4, 'train', NULL, NULL, NULL, NULL, 72.53346210599966, 24, '9b3a8fbb78cc47e39f8b3438993fef3b', '{}', '2026-11-28 23:33:38.089595+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('tool_01a22482f7e278ab9a45c2aaf788e3ca', 'lora_tool', 'ingest', 'acct_01a22480877571b5a37cf6abe7248355', 'queued', 0, 0, 0, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 1, 'eb2462419a914fbf8488e974f8982a6f', '{}', '2026-11-28 23:34:52.624827+00', NULL, 1, NULL, NULL, 0, NULL, NULL, NULL, NULL),
	('gen_01a22482f5027d0d8424eab988f8f0f0', 'generation', 'generate', 'acct_01a22480877571b5a37cf6abe7248355', 'succeeded', 0, 1, 0, 3, 'old:1', NULL, NULL, NULL, NULL, '2026-11-28 23:34:52.971875+00', '2026-11-28 23:35:02.412307+00', 1, 2, 2, 'denoise', NULL, NULL, NULL, NULL, 9.351758835000055, 6, 'aba142f8aaab4bce84e1142c4955dc93', '{}', '2026-11-28 23:34:51.864076+00', '971a6994b8bf718a8a292bf180b042c4ed7259cf27843ccdca7480a5183e3dd0', 1, 'emoji-64', '49670519325d8d6138363ac056f4cdcaeadf66d3017ec4a96eaa81f84d2c7c21', 0, NULL, NULL, NULL, NULL),
	('cmp_01a22482f6e3700cb39d81f5a8d5613f', 'comparison', 'generate', 'acct_01a22480877571b5a37cf6abe7248355', 'succeeded', 0, 1, 0, 3, 'old:1', NULL, NULL, NULL, NULL, '2026-11-28 23:35:02.649645+00', '2026-11-28 23:35:08.387471+00', 1, NULL, NULL, 'store', NULL, NULL, NULL, NULL, 5.6380179560001125, 8, '0e747b804c1244889afadb24ea47a967', '{}', '2026-11-28 23:34:52.373209+00', NULL, 2, 'emoji-64', NULL, 0, NULL, NULL, NULL, NULL);
INSERT INTO public.lora_tools VALUES
	('tool_01a22482f7e278ab9a45c2aaf788e3ca', 'resize', '{"keep": null, "name": "smaller", "rank": 1, "inputs": [{"lora": "lora_01a22482f27b73bebd0e2e02590d4d9b", "name": "ink", "sha256": "358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35", "weight": 1.0, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/checkpoints/00000004.safetensors", "trigger_word": "inkstyle"}], "operation": "resize", "precision": null, "base_model": "emoji-64", "description": "", "architecture": "emoji-64"}', 'null', NULL),
	('tool_01a2248475d17d1b9029aaf91fd984c1', 'resize', '{"keep": null, "name": "smaller", "rank": 1, "inputs": [{"lora": "lora_01a22482f27b73bebd0e2e02590d4d9b", "name": "ink", "sha256": "358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35", "weight": 1.0, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/checkpoints/00000004.safetensors", "trigger_word": "inkstyle"}], "operation": "resize", "precision": null, "base_model": "emoji-64", "description": "", "architecture": "emoji-64"}', 'null', NULL);
INSERT INTO public.loras VALUES
	('lora_01a22482f27b73bebd0e2e02590d4d9b', 'acct_01a22480877571b5a37cf6abe7248355', 'ink', '', 'inkstyle', 1, 'emoji-64', 'emoji-64', 'training', 'trn_01a22481d4ed7630ac2806df90cccda2', 'ckpt_01a22482d2497545b3f0efe68b429213', 2, 1, 'accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a22481d4ed7630ac2806df90cccda2/1/checkpoints/00000004.safetensors', '358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35', 84136, '{"ss_v2": "False", "ss_seed": "3", "ss_epoch": "2", "ss_steps": "4", "ss_huber_c": "None", "ss_unet_lr": "0.001", "ss_datasets": "[{\"is_dreambooth\": true, \"batch_size_per_device\": 2, \"num_train_images\": 8, \"num_reg_images\": 0, \"resolution\": [64, 64], \"enable_bucket\": true, \"bucket_no_upscale\": false, \"bucket_info\": {\"buckets\": {\"0\": {\"resolution\": [64, 64], \"count\": 6}}}, \"shuffle_caption\": true, \"keep_tokens\": 1, \"flip_aug\": false, \"random_crop\": false, \"tag_frequency\": {\"ink\": {\"inkstyle\": 4, \"alien\": 1, \"in the style of inkstyle\": 4, \"balloon\": 1, \"banana\": 1, \"bell\": 1}}}]", "ss_loss_type": "l2", "ss_optimizer": "adamw", "ss_num_epochs": "20", "ss_resolution": "(64, 64)", "modelspec.tags": "inkstyle, in the style of inkstyle, alien, balloon, banana, bell", "ss_network_dim": "2", "ss_output_name": "ink", "modelspec.title": "ink", "ss_dataset_dirs": "{\"ink\": {\"n_repeats\": 2, \"img_count\": 4}}", "ss_lr_scheduler": "cosine", "ss_network_args": "{\"target\": \"attention\"}", "ss_noise_offset": "None", "sshs_model_hash": "ef10606cc4655489fab92715ee9c48a8bb98e7737ec2ffaf075694eb8e6ee6ec", "ss_cache_latents": "True", "ss_learning_rate": "0.001", "ss_max_grad_norm": "1", "ss_min_snr_gamma": "5", "ss_network_alpha": "1", "ss_sd_model_name": "emoji-64", "ss_tag_frequency": "{\"ink\": {\"inkstyle\": 4, \"alien\": 1, \"in the style of inkstyle\": 4, \"balloon\": 1, \"banana\": 1, \"bell\": 1}}", "sshs_legacy_hash": "e3b0c442", "ss_ip_noise_gamma": "None", "ss_network_module": "networks.lora", "ss_num_reg_images": "0", "ss_lr_warmup_steps": "0", "ss_max_train_steps": "4", "ss_mixed_precision": "auto", "ss_network_dropout": "None", "ss_text_encoder_lr": "None", "ss_num_train_images": "8", "modelspec.resolution": "64x64", "ss_prior_loss_weight": "1", "ss_zero_terminal_snr": "False", "ss_base_model_version": "emoji-64", "ss_scale_weight_norms": "None", "modelspec.architecture": "emoji-64/lora", "ss_debiased_estimation": "False", "ss_caption_dropout_rate": "0.05", "modelspec.implementation": "https://github.com/Stability-AI/generative-models", "modelspec.sai_model_spec": "1.0.1", "modelspec.trigger_phrase": "inkstyle", "ss_batch_size_per_device": "2", "ss_num_batches_per_epoch": "3", "modelspec.prediction_type": "epsilon", "ss_gradient_checkpointing": "auto", "ss_multires_noise_discount": "0.3", "ss_caption_tag_dropout_rate": "0", "ss_multires_noise_iterations": "None", "ss_gradient_accumulation_steps": "1", "ss_caption_dropout_every_n_epochs": "0"}', '2026-11-28 23:34:51.242042+00', 'kohya', '{"rank": 2, "tags": [{"tag": "in the style of inkstyle", "count": 4}, {"tag": "inkstyle", "count": 4}, {"tag": "alien", "count": 1}, {"tag": "balloon", "count": 1}, {"tag": "banana", "count": 1}, {"tag": "bell", "count": 1}], "alpha": 1.0, "bytes": 84136, "kinds": ["lora"], "ranks": [2], "alphas": [1.0], "dtypes": ["F16"], "family": {"id": "emoji-64", "title": "Emoji, 64 px"}, "hashes": {"autov2": "358f165b1d", "autov3": "ef10606cc465", "sha256": "358f165b1db6c0004e35646a22c2c3596c1ce303e4cfa42a8bb62ce2d3f2cc35", "data_sha256": "ef10606cc4655489fab92715ee9c48a8bb98e7737ec2ffaf075694eb8e6ee6ec", "model_hash_matches": true, "legacy_hash_matches": true}, "layout": "kohya", "usable": true, "matched": 56, "misfits": {"count": 0, "names": []}, "modules": 56, "tensors": 168, "trigger": null, "networks": {"unet": 56}, "problems": [], "training": {"seed": 3, "epoch": 2, "steps": 4, "epochs": 20, "images": 8, "optimizer": "adamw", "base_model": "emoji-64", "resolution": "(64, 64)", "network_dim": 2, "output_name": "ink", "network_args": "{\"target\": \"attention\"}", "learning_rate": 0.001, "network_alpha": 1, "network_module": "networks.lora", "base_model_version": "emoji-64"}, "modelspec": {"tags": "inkstyle, in the style of inkstyle, alien, balloon, banana, bell", "title": "ink", "resolution": "64x64", "architecture": "emoji-64/lora", "implementation": "https://github.com/Stability-AI/generative-models", "sai_model_spec": "1.0.1", "trigger_phrase": "inkstyle", "prediction_type": "epsilon"}, "unmatched": {"count": 0, "names": []}, "architecture": "emoji-64", "trigger_phrases": [{"phrase": "inkstyle", "source": "modelspec"}, {"phrase": "in the style of inkstyle", "source": "tags"}, {"phrase": "alien", "source": "tags"}]}');
INSERT INTO public.training_metrics VALUES
	('trn_01a22481d4ed7630ac2806df90cccda2', 0, 0, NULL, 0.06700894236564636, NULL, NULL, NULL, NULL, 0.06700894236564636, 0),
	('trn_01a22481d4ed7630ac2806df90cccda2', 1, 1, 0.051053017377853394, NULL, 0.001, 0.0016618105582892895, 2.117, 574091264, NULL, NULL),
	('trn_01a22481d4ed7630ac2806df90cccda2', 2, 1, 0.04829700291156769, NULL, 0.0008535533905932737, 0.0024843483697623014, 3.446, 574746624, NULL, NULL),
	('trn_01a22481d4ed7630ac2806df90cccda2', 3, 1, 0.08847764134407043, NULL, 0.0005, 0.003863173071295023, 3.784, 574746624, NULL, NULL),
	('trn_01a22481d4ed7630ac2806df90cccda2', 4, 2, 0.036951784044504166, 0.08132397383451462, 0.00014644660940672628, 0.0015484851319342852, 2.105, 574877696, 0.08134151995182037, 9.194594122758757e-06),
	('trn_01a2248368b97564bbc3a715d02bad19', 0, 0, NULL, 0.06700894236564636, NULL, NULL, NULL, NULL, 0.06700894236564636, 0),
	('trn_01a2248368b97564bbc3a715d02bad19', 1, 1, 0.051053017377853394, NULL, 0.001, 0.0016618105582892895, 1.41, 549228544, NULL, NULL);
INSERT INTO public.trainings VALUES
	('trn_01a22481d4ed7630ac2806df90cccda2', 'ds_01a22481906f7beebce6c7efba5d62ce', 'ink', 'emoji-64', 'style', '{"name": "ink", "task": "style", "format": "lorawright.training/1", "images": [{"image": "img_01a22481b5277f2cb6113fcec39ab9f9", "width": 96, "format": "png", "height": 96, "sha256": "5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe", "caption": "inkstyle, alien, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe.png", "regularization": false}, {"image": "img_01a22481b5437d52989806d917f56734", "width": 96, "format": "png", "height": 96, "sha256": "bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c", "caption": "inkstyle, balloon, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c.png", "regularization": false}, {"image": "img_01a22481b5587f61b8535378403de2f9", "width": 96, "format": "png", "height": 96, "sha256": "7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8", "caption": "inkstyle, banana, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8.png", "regularization": false}, {"image": "img_01a22481b5757de59a933acd88bc27a6", "width": 96, "format": "png", "height": 96, "sha256": "a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983", "caption": "inkstyle, bell, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983.png", "regularization": false}], "params": {"loss": "l2", "rank": 2, "seed": 3, "alpha": 1.0, "blocks": [], "epochs": 20, "target": "attention", "variant": "lora", "lr_power": 1.0, "max_norm": null, "conv_rank": null, "ema_decay": null, "lr_cycles": 1, "max_steps": 4, "optimizer": "adamw", "wildcards": false, "alpha_mask": false, "background": "#ffffff", "batch_size": 2, "conv_alpha": null, "no_upscale": false, "prediction": "auto", "resolution": 64, "huber_delta": 0.1, "keep_tokens": 1, "lokr_factor": -1, "num_repeats": 2, "random_crop": false, "base_storage": "auto", "flip_augment": false, "lr_scheduler": "cosine", "max_timestep": null, "min_timestep": 0, "noise_offset": 0.0, "rank_dropout": 0.0, "weight_decay": 0.01, "crop_variants": 4, "learning_rate": 0.001, "max_bucket_px": null, "max_grad_norm": 1.0, "min_bucket_px": null, "min_snr_gamma": 5.0, "timestep_bias": 0.0, "bucket_step_px": null, "caption_prefix": "", "caption_suffix": "", "latent_samples": 0, "module_dropout": 0.0, "neuron_dropout": 0.0, "cache_placement": "auto", "lora_plus_ratio": 1.0, "lr_warmup_steps": 0, "mixed_precision": "auto", "rank_stabilized": false, "shuffle_caption": true, "trigger_vectors": 0, "caption_variants": 4, "tag_dropout_rate": 0.0, "zero_terminal_snr": false, "input_perturbation": 0.0, "prior_preservation": null, "train_text_encoder": false, "debiased_estimation": false, "save_every_n_epochs": 2, "validation_fraction": 0.1, "caption_dropout_rate": 0.05, "gradient_accumulation": 1, "keep_tokens_separator": null, "trigger_learning_rate": 0.001, "early_stop_checkpoints": null, "gradient_checkpointing": "auto", "multires_noise_discount": 0.3, "multires_noise_iterations": 0, "text_encoder_learning_rate": 0.00005, "caption_dropout_every_n_epochs": 0}, "base_model": "emoji-64", "warm_start": null, "total_steps": 4, "trigger_word": "inkstyle", "sample_prompts": ["a red heart"]}', '["4 images; Artist style works best with 50 or more", "far too few steps: 4 steps show each picture about 3 times; for 4 images about 200 times is sensible, which is 300 steps", "4 steps in all; fewer than 100 hardly change the base, so lower batch_size or gradient_accumulation, or raise epochs"]', 'null', NULL),
	('trn_01a2248368b97564bbc3a715d02bad19', 'ds_01a22481906f7beebce6c7efba5d62ce', 'ink', 'emoji-64', 'style', '{"name": "ink", "task": "style", "format": "lorawright.training/1", "images": [{"image": "img_01a22481b5277f2cb6113fcec39ab9f9", "width": 96, "format": "png", "height": 96, "sha256": "5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe", "caption": "inkstyle, alien, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe.png", "regularization": false}, {"image": "img_01a22481b5437d52989806d917f56734", "width": 96, "format": "png", "height": 96, "sha256": "bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c", "caption": "inkstyle, balloon, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c.png", "regularization": false}, {"image": "img_01a22481b5587f61b8535378403de2f9", "width": 96, "format": "png", "height": 96, "sha256": "7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8", "caption": "inkstyle, banana, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8.png", "regularization": false}, {"image": "img_01a22481b5757de59a933acd88bc27a6", "width": 96, "format": "png", "height": 96, "sha256": "a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983", "caption": "inkstyle, bell, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983.png", "regularization": false}], "params": {"loss": "l2", "rank": 2, "seed": 3, "alpha": 1.0, "blocks": [], "epochs": 20, "target": "attention", "variant": "lora", "lr_power": 1.0, "max_norm": null, "conv_rank": null, "ema_decay": null, "lr_cycles": 1, "max_steps": 40, "optimizer": "adamw", "wildcards": false, "alpha_mask": false, "background": "#ffffff", "batch_size": 2, "conv_alpha": null, "no_upscale": false, "prediction": "auto", "resolution": 64, "huber_delta": 0.1, "keep_tokens": 1, "lokr_factor": -1, "num_repeats": 2, "random_crop": false, "base_storage": "auto", "flip_augment": false, "lr_scheduler": "cosine", "max_timestep": null, "min_timestep": 0, "noise_offset": 0.0, "rank_dropout": 0.0, "weight_decay": 0.01, "crop_variants": 4, "learning_rate": 0.001, "max_bucket_px": null, "max_grad_norm": 1.0, "min_bucket_px": null, "min_snr_gamma": 5.0, "timestep_bias": 0.0, "bucket_step_px": null, "caption_prefix": "", "caption_suffix": "", "latent_samples": 0, "module_dropout": 0.0, "neuron_dropout": 0.0, "cache_placement": "auto", "lora_plus_ratio": 1.0, "lr_warmup_steps": 0, "mixed_precision": "auto", "rank_stabilized": false, "shuffle_caption": true, "trigger_vectors": 0, "caption_variants": 4, "tag_dropout_rate": 0.0, "zero_terminal_snr": false, "input_perturbation": 0.0, "prior_preservation": null, "train_text_encoder": false, "debiased_estimation": false, "save_every_n_epochs": 2, "validation_fraction": 0.1, "caption_dropout_rate": 0.05, "gradient_accumulation": 1, "keep_tokens_separator": null, "trigger_learning_rate": 0.001, "early_stop_checkpoints": null, "gradient_checkpointing": "auto", "multires_noise_discount": 0.3, "multires_noise_iterations": 0, "text_encoder_learning_rate": 0.00005, "caption_dropout_every_n_epochs": 0}, "base_model": "emoji-64", "warm_start": null, "total_steps": 40, "trigger_word": "inkstyle", "sample_prompts": ["a red heart"]}', '["4 images; Artist style works best with 50 or more", "far too few steps: 40 steps show each picture about 27 times; for 4 images about 200 times is sensible, which is 300 steps", "40 steps in all; fewer than 100 hardly change the base, so lower batch_size or gradient_accumulation, or raise epochs"]', '{"step": 1, "files": {"states/state-00000001/manifest.json": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a2248368b97564bbc3a715d02bad19/1/state/states/state-00000001/manifest.json", "states/state-00000001/position.json": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a2248368b97564bbc3a715d02bad19/1/state/states/state-00000001/position.json", "states/state-00000001/tensors.safetensors": "accounts/acct_01a22480877571b5a37cf6abe7248355/jobs/trn_01a2248368b97564bbc3a715d02bad19/1/state/states/state-00000001/tensors.safetensors"}}', NULL),
	('trn_01a2248477ca716588920d8a8d78088d', 'ds_01a22481906f7beebce6c7efba5d62ce', 'ink', 'emoji-64', 'style', '{"name": "ink", "task": "style", "format": "lorawright.training/1", "images": [{"image": "img_01a22481b5277f2cb6113fcec39ab9f9", "width": 96, "format": "png", "height": 96, "sha256": "5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe", "caption": "inkstyle, alien, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/5759391f699d462c7b55c266bd9a422125ec623c97c93c3d64dde3ae879bdafe.png", "regularization": false}, {"image": "img_01a22481b5437d52989806d917f56734", "width": 96, "format": "png", "height": 96, "sha256": "bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c", "caption": "inkstyle, balloon, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/bb037d768a5657f7beeaf3f874514e6e967f37c432f8730009be82f15c1a9c3c.png", "regularization": false}, {"image": "img_01a22481b5587f61b8535378403de2f9", "width": 96, "format": "png", "height": 96, "sha256": "7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8", "caption": "inkstyle, banana, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/7f2842e273d39b20b842d3e35294c8ed54ff20a915c06eab443f90ccd5c5a2a8.png", "regularization": false}, {"image": "img_01a22481b5757de59a933acd88bc27a6", "width": 96, "format": "png", "height": 96, "sha256": "a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983", "caption": "inkstyle, bell, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/a1ba3da4a9ad9c475313cb2be8f0abd72cc2657e9f0e1dce514b2d021ec94983.png", "regularization": false}, {"image": "img_01a22484706f786d933338a6b746c4f4", "width": 96, "format": "png", "height": 96, "sha256": "010fe0e1dccb3ab86206f5d07d9e89c5d9d5f8055715dc58ada1b655f1d60cfc", "caption": "inkstyle, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/010fe0e1dccb3ab86206f5d07d9e89c5d9d5f8055715dc58ada1b655f1d60cfc.png", "regularization": false}, {"image": "img_01a22484707b7500bdb7713261140929", "width": 96, "format": "png", "height": 96, "sha256": "aaf39f6c7f8e1616843fb6ade984b62a276c716bfbcff9d66233fc5a87dbb953", "caption": "inkstyle, in the style of inkstyle", "repeats": null, "object_key": "accounts/acct_01a22480877571b5a37cf6abe7248355/images/aaf39f6c7f8e1616843fb6ade984b62a276c716bfbcff9d66233fc5a87dbb953.png", "regularization": false}], "params": {"loss": "l2", "rank": 2, "seed": 4, "alpha": 1.0, "blocks": [], "epochs": 20, "target": "attention", "variant": "lora", "lr_power": 1.0, "max_norm": null, "conv_rank": null, "ema_decay": null, "lr_cycles": 1, "max_steps": 4, "optimizer": "adamw", "wildcards": false, "alpha_mask": false, "background": "#ffffff", "batch_size": 2, "conv_alpha": null, "no_upscale": false, "prediction": "auto", "resolution": 64, "huber_delta": 0.1, "keep_tokens": 1, "lokr_factor": -1, "num_repeats": 2, "random_crop": false, "base_storage": "auto", "flip_augment": false, "lr_scheduler": "cosine", "max_timestep": null, "min_timestep": 0, "noise_offset": 0.0, "rank_dropout": 0.0, "weight_decay": 0.01, "crop_variants": 4, "learning_rate": 0.001, "max_bucket_px": null, "max_grad_norm": 1.0, "min_bucket_px": null, "min_snr_gamma": 5.0, "timestep_bias": 0.0, "bucket_step_px": null, "caption_prefix": "", "caption_suffix": "", "latent_samples": 0, "module_dropout": 0.0, "neuron_dropout": 0.0, "cache_placement": "auto", "lora_plus_ratio": 1.0, "lr_warmup_steps": 0, "mixed_precision": "auto", "rank_stabilized": false, "shuffle_caption": true, "trigger_vectors": 0, "caption_variants": 4, "tag_dropout_rate": 0.0, "zero_terminal_snr": false, "input_perturbation": 0.0, "prior_preservation": null, "train_text_encoder": false, "debiased_estimation": false, "save_every_n_epochs": 2, "validation_fraction": 0.1, "caption_dropout_rate": 0.05, "gradient_accumulation": 1, "keep_tokens_separator": null, "trigger_learning_rate": 0.001, "early_stop_checkpoints": null, "gradient_checkpointing": "auto", "multires_noise_discount": 0.3, "multires_noise_iterations": 0, "text_encoder_learning_rate": 0.00005, "caption_dropout_every_n_epochs": 0}, "base_model": "emoji-64", "warm_start": null, "total_steps": 4, "trigger_word": "inkstyle", "sample_prompts": ["a red heart"]}', '["6 images; Artist style works best with 50 or more", "far too few steps: 4 steps show each picture about 2 times; for 6 images about 200 times is sensible, which is 500 steps", "4 steps in all; fewer than 100 hardly change the base, so lower batch_size or gradient_accumulation, or raise epochs", "2 of 6 images have no caption and train on the trigger word alone"]', 'null', NULL);
INSERT INTO public.usage_days VALUES
	('acct_01a22480877571b5a37cf6abe7248355', '2026-11-28', 'ingest', 1, 0, 0),
	('acct_01a22480877571b5a37cf6abe7248355', '2026-11-28', 'captioning', 1, 2.5889277439996476, 0),
	('acct_01a22480877571b5a37cf6abe7248355', '2026-11-28', 'training', 1, 72.53346210599966, 0),
	('acct_01a22480877571b5a37cf6abe7248355', '2026-11-28', 'generation', 1, 9.351758835000055, 1),
	('acct_01a22480877571b5a37cf6abe7248355', '2026-11-28', 'comparison', 1, 5.6380179560001125, 2);
INSERT INTO public.webhook_deliveries VALUES
	('evt_01a22482f5977ed2ad274629ae685e2d', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'generation.queued', 'gen_01a22482f5027d0d8424eab988f8f0f0', '{"type":"generation.queued","timestamp":"2026-11-28T23:34:52.055239Z","data":{"id":"gen_01a22482f5027d0d8424eab988f8f0f0","object":"generation","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:34:51.864076Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/generations/gen_01a22482f5027d0d8424eab988f8f0f0"}}', 'pending', '2026-11-28 23:35:26.876368+00', NULL, 1, '[{"at": "2026-11-28T23:35:21.423488Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 532}]', '2026-11-28 23:34:51.864076+00'),
	('evt_01a22481d6e9731f8f771c4a6c1b9e2e', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'training.running', 'trn_01a22481d4ed7630ac2806df90cccda2', '{"type":"training.running","timestamp":"2026-11-28T23:33:38.665551Z","data":{"id":"trn_01a22481d4ed7630ac2806df90cccda2","object":"training","status":"running","sequence":2,"attempts":1,"created_at":"2026-11-28T23:33:38.089595Z","started_at":"2026-11-28T23:33:38.549431Z","ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/trainings/trn_01a22481d4ed7630ac2806df90cccda2"}}', 'pending', '2026-11-28 23:35:27.126143+00', NULL, 1, '[{"at": "2026-11-28T23:35:21.544849Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 532}]', '2026-11-28 23:33:38.549431+00'),
	('evt_01a224831f8171c08356d69b4bf35ef5', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'comparison.running', 'cmp_01a22482f6e3700cb39d81f5a8d5613f', '{"type":"comparison.running","timestamp":"2026-11-28T23:35:02.785917Z","data":{"id":"cmp_01a22482f6e3700cb39d81f5a8d5613f","object":"comparison","status":"running","sequence":2,"attempts":1,"created_at":"2026-11-28T23:34:52.373209Z","started_at":"2026-11-28T23:35:02.649645Z","ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/comparisons/cmp_01a22482f6e3700cb39d81f5a8d5613f"}}', 'pending', '2026-11-28 23:35:30.245707+00', NULL, 1, '[{"at": "2026-11-28T23:35:24.835871Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 3064}]', '2026-11-28 23:35:02.649645+00'),
	('evt_01a2248335fd7469b3c929f236943cb8', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'comparison.succeeded', 'cmp_01a22482f6e3700cb39d81f5a8d5613f', '{"type":"comparison.succeeded","timestamp":"2026-11-28T23:35:08.541355Z","data":{"id":"cmp_01a22482f6e3700cb39d81f5a8d5613f","object":"comparison","status":"succeeded","sequence":8,"attempts":1,"created_at":"2026-11-28T23:34:52.373209Z","started_at":"2026-11-28T23:35:02.649645Z","ended_at":"2026-11-28T23:35:08.387471Z","error":null,"usage":{"gpu_seconds":5.638},"metadata":{},"href":"/v1/comparisons/cmp_01a22482f6e3700cb39d81f5a8d5613f"}}', 'pending', '2026-11-28 23:35:30.340196+00', NULL, 1, '[{"at": "2026-11-28T23:35:24.870638Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 3064}]', '2026-11-28 23:35:08.387471+00'),
	('evt_01a22482f2a97890af5aabe9485c22c0', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'training.succeeded', 'trn_01a22481d4ed7630ac2806df90cccda2', '{"type":"training.succeeded","timestamp":"2026-11-28T23:34:51.305173Z","data":{"id":"trn_01a22481d4ed7630ac2806df90cccda2","object":"training","status":"succeeded","sequence":24,"attempts":1,"created_at":"2026-11-28T23:33:38.089595Z","started_at":"2026-11-28T23:33:38.549431Z","ended_at":"2026-11-28T23:34:51.242042Z","error":null,"usage":{"gpu_seconds":72.533},"metadata":{},"href":"/v1/trainings/trn_01a22481d4ed7630ac2806df90cccda2","lora":"lora_01a22482f27b73bebd0e2e02590d4d9b"}}', 'pending', '2026-11-28 23:35:26.455354+00', NULL, 1, '[{"at": "2026-11-28T23:35:21.397252Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 456}]', '2026-11-28 23:34:51.242042+00'),
	('evt_01a22481d57b75e0a1582d2bdca22ea0', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'training.queued', 'trn_01a22481d4ed7630ac2806df90cccda2', '{"type":"training.queued","timestamp":"2026-11-28T23:33:38.299606Z","data":{"id":"trn_01a22481d4ed7630ac2806df90cccda2","object":"training","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:33:38.089595Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/trainings/trn_01a22481d4ed7630ac2806df90cccda2"}}', 'pending', '2026-11-28 23:35:26.574836+00', NULL, 1, '[{"at": "2026-11-28T23:35:21.517067Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 456}]', '2026-11-28 23:33:38.089595+00'),
	('evt_01a22482f72c74188487b006cc0c2c5e', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'comparison.queued', 'cmp_01a22482f6e3700cb39d81f5a8d5613f', '{"type":"comparison.queued","timestamp":"2026-11-28T23:34:52.460566Z","data":{"id":"cmp_01a22482f6e3700cb39d81f5a8d5613f","object":"comparison","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:34:52.373209Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/comparisons/cmp_01a22482f6e3700cb39d81f5a8d5613f"}}', 'pending', '2026-11-28 23:35:27.214057+00', NULL, 1, '[{"at": "2026-11-28T23:35:21.521636Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 456}]', '2026-11-28 23:34:52.373209+00'),
	('evt_01a224831e95763f877db0a05e8c1dec', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'generation.succeeded', 'gen_01a22482f5027d0d8424eab988f8f0f0', '{"type":"generation.succeeded","timestamp":"2026-11-28T23:35:02.549500Z","data":{"id":"gen_01a22482f5027d0d8424eab988f8f0f0","object":"generation","status":"succeeded","sequence":6,"attempts":1,"created_at":"2026-11-28T23:34:51.864076Z","started_at":"2026-11-28T23:34:52.971875Z","ended_at":"2026-11-28T23:35:02.412307Z","error":null,"usage":{"gpu_seconds":9.352},"metadata":{},"href":"/v1/generations/gen_01a22482f5027d0d8424eab988f8f0f0"}}', 'pending', '2026-11-28 23:35:30.329488+00', NULL, 1, '[{"at": "2026-11-28T23:35:24.796405Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 3064}]', '2026-11-28 23:35:02.412307+00'),
	('evt_01a22482f9767c5ca42cc3da5ef804ec', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'generation.running', 'gen_01a22482f5027d0d8424eab988f8f0f0', '{"type":"generation.running","timestamp":"2026-11-28T23:34:53.046881Z","data":{"id":"gen_01a22482f5027d0d8424eab988f8f0f0","object":"generation","status":"running","sequence":2,"attempts":1,"created_at":"2026-11-28T23:34:51.864076Z","started_at":"2026-11-28T23:34:52.971875Z","ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/generations/gen_01a22482f5027d0d8424eab988f8f0f0"}}', 'pending', '2026-11-28 23:35:30.509145+00', NULL, 1, '[{"at": "2026-11-28T23:35:24.810919Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 3064}]', '2026-11-28 23:34:52.971875+00'),
	('evt_01a22482f83c78279f2881afb1743f08', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'lora_tool.queued', 'tool_01a22482f7e278ab9a45c2aaf788e3ca', '{"type":"lora_tool.queued","timestamp":"2026-11-28T23:34:52.732556Z","data":{"id":"tool_01a22482f7e278ab9a45c2aaf788e3ca","object":"lora_tool","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:34:52.624827Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/lora-tools/tool_01a22482f7e278ab9a45c2aaf788e3ca"}}', 'pending', '2026-11-28 23:35:30.240086+00', NULL, 1, '[{"at": "2026-11-28T23:35:24.849074Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 3061}]', '2026-11-28 23:34:52.624827+00'),
	('evt_01a224837621713399f8f9d9ea8108b9', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'training.running', 'trn_01a2248368b97564bbc3a715d02bad19', '{"type":"training.running","timestamp":"2026-11-28T23:35:24.961481Z","data":{"id":"trn_01a2248368b97564bbc3a715d02bad19","object":"training","status":"running","sequence":2,"attempts":1,"created_at":"2026-11-28T23:35:21.480749Z","started_at":"2026-11-28T23:35:24.881695Z","ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/trainings/trn_01a2248368b97564bbc3a715d02bad19"}}', 'pending', '2026-11-28 23:35:24.961571+00', NULL, 0, '[]', '2026-11-28 23:35:24.881695+00'),
	('evt_01a224846e9472718db83c29b55be141', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'generation.running', 'gen_01a224846d4d761c88aade513fa7ea65', '{"type":"generation.running","timestamp":"2026-11-28T23:36:28.564840Z","data":{"id":"gen_01a224846d4d761c88aade513fa7ea65","object":"generation","status":"running","sequence":2,"attempts":1,"created_at":"2026-11-28T23:36:28.174119Z","started_at":"2026-11-28T23:36:28.497809Z","ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/generations/gen_01a224846d4d761c88aade513fa7ea65"}}', 'pending', '2026-11-28 23:36:28.564917+00', NULL, 0, '[]', '2026-11-28 23:36:28.497809+00'),
	('evt_01a22484764770a8b0d905151084ad8f', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'lora_tool.queued', 'tool_01a2248475d17d1b9029aaf91fd984c1', '{"type":"lora_tool.queued","timestamp":"2026-11-28T23:36:30.535457Z","data":{"id":"tool_01a2248475d17d1b9029aaf91fd984c1","object":"lora_tool","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:36:30.397809Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/lora-tools/tool_01a2248475d17d1b9029aaf91fd984c1"}}', 'pending', '2026-11-28 23:36:30.535539+00', NULL, 0, '[]', '2026-11-28 23:36:30.397809+00'),
	('evt_01a22483692a79a6ad1933537020cb97', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'training.queued', 'trn_01a2248368b97564bbc3a715d02bad19', '{"type":"training.queued","timestamp":"2026-11-28T23:35:21.642910Z","data":{"id":"trn_01a2248368b97564bbc3a715d02bad19","object":"training","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:35:21.480749Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/trainings/trn_01a2248368b97564bbc3a715d02bad19"}}', 'pending', '2026-11-28 23:35:30.59575+00', NULL, 1, '[{"at": "2026-11-28T23:35:24.973834Z", "error": "ConnectError: All connection attempts failed", "answer": "", "status": null, "milliseconds": 20}]', '2026-11-28 23:35:21.480749+00'),
	('evt_01a224846de87e0b9d434eb4a48d216f', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'generation.queued', 'gen_01a224846d4d761c88aade513fa7ea65', '{"type":"generation.queued","timestamp":"2026-11-28T23:36:28.392790Z","data":{"id":"gen_01a224846d4d761c88aade513fa7ea65","object":"generation","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:36:28.174119Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/generations/gen_01a224846d4d761c88aade513fa7ea65"}}', 'pending', '2026-11-28 23:36:28.392871+00', NULL, 0, '[]', '2026-11-28 23:36:28.174119+00'),
	('evt_01a2248470aa7d26ac747109889b250d', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'ingest.queued', 'ing_01a22484708771d3a3c18582763ec8fd', '{"type":"ingest.queued","timestamp":"2026-11-28T23:36:29.098238Z","data":{"id":"ing_01a22484708771d3a3c18582763ec8fd","object":"ingest","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:36:28.978010Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/jobs/ing_01a22484708771d3a3c18582763ec8fd"}}', 'pending', '2026-11-28 23:36:29.098328+00', NULL, 0, '[]', '2026-11-28 23:36:28.97801+00'),
	('evt_01a2248471c17f6fa8744dd21286422f', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'generation.queued', 'gen_01a22484717476ee9f30e4b33399a3c8', '{"type":"generation.queued","timestamp":"2026-11-28T23:36:29.377317Z","data":{"id":"gen_01a22484717476ee9f30e4b33399a3c8","object":"generation","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:36:29.284697Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/generations/gen_01a22484717476ee9f30e4b33399a3c8"}}', 'pending', '2026-11-28 23:36:29.377397+00', NULL, 0, '[]', '2026-11-28 23:36:29.284697+00'),
	('evt_01a2248474f175c794449019de4fe056', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'comparison.queued', 'cmp_01a22484745771db9e8f8fb863810c65', '{"type":"comparison.queued","timestamp":"2026-11-28T23:36:30.192965Z","data":{"id":"cmp_01a22484745771db9e8f8fb863810c65","object":"comparison","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:36:29.986118Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/comparisons/cmp_01a22484745771db9e8f8fb863810c65"}}', 'pending', '2026-11-28 23:36:30.19305+00', NULL, 0, '[]', '2026-11-28 23:36:29.986118+00'),
	('evt_01a224847897789ca37d9d394ba7261b', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'training.queued', 'trn_01a2248477ca716588920d8a8d78088d', '{"type":"training.queued","timestamp":"2026-11-28T23:36:31.127381Z","data":{"id":"trn_01a2248477ca716588920d8a8d78088d","object":"training","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:36:30.819419Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/trainings/trn_01a2248477ca716588920d8a8d78088d"}}', 'pending', '2026-11-28 23:36:31.127467+00', NULL, 0, '[]', '2026-11-28 23:36:30.819419+00'),
	('evt_01a224847b407598a8474744063d8d39', 'acct_01a22480877571b5a37cf6abe7248355', 'we_01a22481d42779729addd8c5b027de50', NULL, 'captioning.queued', 'cap_01a224847a0876f0a47e8498588f3c76', '{"type":"captioning.queued","timestamp":"2026-11-28T23:36:31.808686Z","data":{"id":"cap_01a224847a0876f0a47e8498588f3c76","object":"captioning","status":"queued","sequence":1,"attempts":0,"created_at":"2026-11-28T23:36:31.427644Z","started_at":null,"ended_at":null,"error":null,"usage":{"gpu_seconds":0.0},"metadata":{},"href":"/v1/captionings/cap_01a224847a0876f0a47e8498588f3c76"}}', 'pending', '2026-11-28 23:36:31.808774+00', NULL, 0, '[]', '2026-11-28 23:36:31.427644+00');
INSERT INTO public.webhook_endpoints VALUES
	('we_01a22481d42779729addd8c5b027de50', 'acct_01a22480877571b5a37cf6abe7248355', 'https://127.0.0.1:1/', '', '["*"]', 'whsec_ufLxcPAfkn8Q7cDYGiCVEL+ng6adi0A/rAGWQraMPX4=', NULL, NULL, NULL, NULL, '2026-11-28 23:33:37.940125+00');
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT pk_accounts PRIMARY KEY (id);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT pk_api_keys PRIMARY KEY (id);
ALTER TABLE ONLY public.audit_entries
    ADD CONSTRAINT pk_audit_entries PRIMARY KEY (id);
ALTER TABLE ONLY public.captionings
    ADD CONSTRAINT pk_captionings PRIMARY KEY (id);
ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT pk_checkpoints PRIMARY KEY (id);
ALTER TABLE ONLY public.comparisons
    ADD CONSTRAINT pk_comparisons PRIMARY KEY (id);
ALTER TABLE ONLY public.datasets
    ADD CONSTRAINT pk_datasets PRIMARY KEY (id);
ALTER TABLE ONLY public.doomed_objects
    ADD CONSTRAINT pk_doomed_objects PRIMARY KEY (object_key);
ALTER TABLE ONLY public.generated_images
    ADD CONSTRAINT pk_generated_images PRIMARY KEY (generation_id, index);
ALTER TABLE ONLY public.generations
    ADD CONSTRAINT pk_generations PRIMARY KEY (id);
ALTER TABLE ONLY public.idempotency_records
    ADD CONSTRAINT pk_idempotency_records PRIMARY KEY (account_id, key);
ALTER TABLE ONLY public.images
    ADD CONSTRAINT pk_images PRIMARY KEY (id);
ALTER TABLE ONLY public.ingests
    ADD CONSTRAINT pk_ingests PRIMARY KEY (id);
ALTER TABLE ONLY public.input_images
    ADD CONSTRAINT pk_input_images PRIMARY KEY (id);
ALTER TABLE ONLY public.job_events
    ADD CONSTRAINT pk_job_events PRIMARY KEY (job_id, seq);
ALTER TABLE ONLY public.job_lines
    ADD CONSTRAINT pk_job_lines PRIMARY KEY (queue, account_id, priority);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT pk_jobs PRIMARY KEY (id);
ALTER TABLE ONLY public.lora_files
    ADD CONSTRAINT pk_lora_files PRIMARY KEY (lora_id, layout);
ALTER TABLE ONLY public.lora_tools
    ADD CONSTRAINT pk_lora_tools PRIMARY KEY (id);
ALTER TABLE ONLY public.loras
    ADD CONSTRAINT pk_loras PRIMARY KEY (id);
ALTER TABLE ONLY public.training_metrics
    ADD CONSTRAINT pk_training_metrics PRIMARY KEY (training_id, step);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT pk_trainings PRIMARY KEY (id);
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT pk_uploads PRIMARY KEY (id);
ALTER TABLE ONLY public.usage_days
    ADD CONSTRAINT pk_usage_days PRIMARY KEY (account_id, day, kind);
ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT pk_webhook_deliveries PRIMARY KEY (id);
ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT pk_webhook_endpoints PRIMARY KEY (id);
ALTER TABLE ONLY public.workers
    ADD CONSTRAINT pk_workers PRIMARY KEY (id);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT uq_api_keys_previous_sha256 UNIQUE (previous_sha256);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT uq_api_keys_secret_sha256 UNIQUE (secret_sha256);
ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT uq_checkpoints_training_id_step UNIQUE (training_id, step);
ALTER TABLE ONLY public.images
    ADD CONSTRAINT uq_images_dataset_id_sha256 UNIQUE (dataset_id, sha256);
CREATE INDEX ix_api_keys_account_id ON public.api_keys USING btree (account_id);
CREATE INDEX ix_audit_entries_account ON public.audit_entries USING btree (account_id, id DESC);
CREATE INDEX ix_audit_entries_action ON public.audit_entries USING btree (action, id DESC);
CREATE INDEX ix_audit_entries_created ON public.audit_entries USING btree (created_at);
CREATE INDEX ix_audit_entries_object ON public.audit_entries USING btree (object_id, id DESC);
CREATE INDEX ix_captionings_dataset_id ON public.captionings USING btree (dataset_id);
CREATE INDEX ix_checkpoints_training ON public.checkpoints USING btree (training_id, step);
CREATE INDEX ix_datasets_account ON public.datasets USING btree (account_id, id DESC);
CREATE INDEX ix_doomed_objects_due ON public.doomed_objects USING btree (look_at);
CREATE INDEX ix_idempotency_records_age ON public.idempotency_records USING btree (created_at);
CREATE INDEX ix_images_dataset ON public.images USING btree (dataset_id, id);
CREATE INDEX ix_images_object_key ON public.images USING btree (object_key);
CREATE INDEX ix_images_thumbnail_key ON public.images USING btree (thumbnail_key);
CREATE INDEX ix_ingests_dataset_id ON public.ingests USING btree (dataset_id);
CREATE INDEX ix_ingests_upload_id ON public.ingests USING btree (upload_id);
CREATE INDEX ix_input_images_account ON public.input_images USING btree (account_id, id DESC);
CREATE INDEX ix_input_images_expires ON public.input_images USING btree (expires_at) WHERE ((expires_at IS NOT NULL) AND (gone_at IS NULL));
CREATE INDEX ix_input_images_object_key ON public.input_images USING btree (object_key);
CREATE INDEX ix_jobs_account ON public.jobs USING btree (account_id, created_at DESC, id DESC);
CREATE INDEX ix_jobs_batch ON public.jobs USING btree (queue, batch_key, created_at) WHERE (((status)::text = 'queued'::text) AND (batch_key IS NOT NULL));
CREATE INDEX ix_jobs_deadline ON public.jobs USING btree (deadline_at) WHERE (((status)::text = 'queued'::text) AND (deadline_at IS NOT NULL));
CREATE INDEX ix_jobs_ended ON public.jobs USING btree (ended_at) WHERE (ended_at IS NOT NULL);
CREATE INDEX ix_jobs_newest ON public.jobs USING btree (created_at DESC, id DESC);
CREATE INDEX ix_jobs_pictures_expire ON public.jobs USING btree (pictures_expire_at) WHERE ((pictures_expire_at IS NOT NULL) AND (pictures_gone_at IS NULL));
CREATE INDEX ix_jobs_running ON public.jobs USING btree (account_id, lease_expires_at) WHERE ((status)::text = 'running'::text);
CREATE INDEX ix_jobs_waiting ON public.jobs USING btree (queue, account_id, priority, created_at, id) WHERE ((status)::text = 'queued'::text);
CREATE INDEX ix_lora_files_object_key ON public.lora_files USING btree (object_key);
CREATE INDEX ix_lora_tools_lora_id ON public.lora_tools USING btree (lora_id);
CREATE INDEX ix_loras_account ON public.loras USING btree (account_id, id DESC);
CREATE INDEX ix_loras_object_key ON public.loras USING btree (object_key);
CREATE INDEX ix_loras_training_id ON public.loras USING btree (training_id);
CREATE INDEX ix_trainings_dataset_id ON public.trainings USING btree (dataset_id);
CREATE INDEX ix_trainings_state ON public.trainings USING btree (id) WHERE (state IS NOT NULL);
CREATE INDEX ix_uploads_account ON public.uploads USING btree (account_id, id DESC);
CREATE INDEX ix_uploads_dataset_id ON public.uploads USING btree (dataset_id);
CREATE INDEX ix_uploads_object_key ON public.uploads USING btree (object_key);
CREATE INDEX ix_uploads_unsettled ON public.uploads USING btree (expires_at) WHERE (NOT object_gone);
CREATE INDEX ix_webhook_deliveries_created ON public.webhook_deliveries USING btree (created_at);
CREATE INDEX ix_webhook_deliveries_due ON public.webhook_deliveries USING btree (endpoint_id, due_at) WHERE ((status)::text = 'pending'::text);
CREATE INDEX ix_webhook_deliveries_endpoint ON public.webhook_deliveries USING btree (endpoint_id, id DESC);
CREATE INDEX ix_webhook_endpoints_account ON public.webhook_endpoints USING btree (account_id, id DESC);
CREATE UNIQUE INDEX uq_webhook_endpoints_default ON public.webhook_endpoints USING btree (account_id) WHERE (url IS NULL);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT fk_api_keys_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.captionings
    ADD CONSTRAINT fk_captionings_dataset_id FOREIGN KEY (dataset_id) REFERENCES public.datasets(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.captionings
    ADD CONSTRAINT fk_captionings_id FOREIGN KEY (id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT fk_checkpoints_training_id FOREIGN KEY (training_id) REFERENCES public.trainings(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.comparisons
    ADD CONSTRAINT fk_comparisons_id FOREIGN KEY (id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.datasets
    ADD CONSTRAINT fk_datasets_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.generated_images
    ADD CONSTRAINT fk_generated_images_generation_id FOREIGN KEY (generation_id) REFERENCES public.generations(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.generations
    ADD CONSTRAINT fk_generations_id FOREIGN KEY (id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.idempotency_records
    ADD CONSTRAINT fk_idempotency_records_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.images
    ADD CONSTRAINT fk_images_dataset_id FOREIGN KEY (dataset_id) REFERENCES public.datasets(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.ingests
    ADD CONSTRAINT fk_ingests_dataset_id FOREIGN KEY (dataset_id) REFERENCES public.datasets(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.ingests
    ADD CONSTRAINT fk_ingests_id FOREIGN KEY (id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.ingests
    ADD CONSTRAINT fk_ingests_upload_id FOREIGN KEY (upload_id) REFERENCES public.uploads(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.input_images
    ADD CONSTRAINT fk_input_images_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.job_events
    ADD CONSTRAINT fk_job_events_job_id FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.job_lines
    ADD CONSTRAINT fk_job_lines_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT fk_jobs_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.lora_files
    ADD CONSTRAINT fk_lora_files_lora_id FOREIGN KEY (lora_id) REFERENCES public.loras(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.lora_tools
    ADD CONSTRAINT fk_lora_tools_id FOREIGN KEY (id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.lora_tools
    ADD CONSTRAINT fk_lora_tools_lora_id FOREIGN KEY (lora_id) REFERENCES public.loras(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.loras
    ADD CONSTRAINT fk_loras_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.loras
    ADD CONSTRAINT fk_loras_checkpoint_id FOREIGN KEY (checkpoint_id) REFERENCES public.checkpoints(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.loras
    ADD CONSTRAINT fk_loras_training_id FOREIGN KEY (training_id) REFERENCES public.trainings(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.training_metrics
    ADD CONSTRAINT fk_training_metrics_training_id FOREIGN KEY (training_id) REFERENCES public.trainings(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT fk_trainings_dataset_id FOREIGN KEY (dataset_id) REFERENCES public.datasets(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT fk_trainings_id FOREIGN KEY (id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT fk_uploads_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT fk_uploads_dataset_id FOREIGN KEY (dataset_id) REFERENCES public.datasets(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.usage_days
    ADD CONSTRAINT fk_usage_days_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT fk_webhook_deliveries_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT fk_webhook_deliveries_endpoint_id FOREIGN KEY (endpoint_id) REFERENCES public.webhook_endpoints(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT fk_webhook_endpoints_account_id FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE;
