(* The inequality of one round over any inner product space: for one local step (docs/method.md, section 5, E = 1), and
   the improved one for two (5.6, E = 2), there with (1 + theta) b_r + (1 + 1/theta) L^2 D_r for every theta > 0, whose
   infimum is (sqrt b_r + L sqrt D_r)^2, and a D_r that is no larger than that of I3.

   Everything is finite and explicit: participants and outcomes of the minibatch noise are lists, expectations are
   weighted sums. Smoothness of F enters as what S1 makes of it, the descent lemma at w. Nothing is assumed beyond the
   hypotheses of the theorems and Coq's real numbers, whose axioms are printed at the end. *)

Require Import Reals List Lra.
Import ListNotations.
Open Scope R_scope.

Section Sums.

Context {A B : Type}.

Fixpoint total (f : A -> R) (l : list A) : R :=
  match l with [] => 0 | a :: rest => f a + total f rest end.

Lemma total_ext f g l : (forall a, In a l -> f a = g a) -> total f l = total g l.
Proof.
  induction l as [| a l IH]; simpl; intros same; [reflexivity |].
  rewrite IH by (intros; apply same; tauto). rewrite (same a); tauto.
Qed.

Lemma total_plus f g l : total (fun a => f a + g a) l = total f l + total g l.
Proof. induction l as [| a l IH]; simpl; [ring | rewrite IH; ring]. Qed.

Lemma total_times c f l : total (fun a => c * f a) l = c * total f l.
Proof. induction l as [| a l IH]; simpl; [ring | rewrite IH; ring]. Qed.

Lemma total_le f g l : (forall a, In a l -> f a <= g a) -> total f l <= total g l.
Proof.
  induction l as [| a l IH]; simpl; intros less; [lra |].
  assert (f a <= g a) by (apply less; tauto).
  assert (total f l <= total g l) by (apply IH; intros; apply less; tauto). lra.
Qed.

Lemma total_zero l : total (fun _ => 0) l = 0.
Proof. induction l as [| a l IH]; simpl; [ring | rewrite IH; ring]. Qed.

End Sums.

Lemma total_swap {A B : Type} (f : A -> B -> R) (l : list A) (m : list B) :
  total (fun a => total (f a) m) l = total (fun b => total (fun a => f a b) l) m.
Proof.
  induction l as [| a l IH]; simpl; [symmetry; apply total_zero |].
  rewrite IH. rewrite <- total_plus. reflexivity.
Qed.

(* Of a sum over distinct indices only one is left where all others vanish. *)
Lemma total_single {A : Type} (f : A -> R) (l : list A) (i : A) :
  NoDup l -> In i l -> (forall j, In j l -> j <> i -> f j = 0) -> total f l = f i.
Proof.
  induction l as [| a l IH]; simpl; intros distinct there others; [tauto |].
  inversion_clear distinct as [| ? ? absent rest].
  destruct there as [<- | there].
  - rewrite (total_ext f (fun _ => 0) l); [rewrite total_zero; ring |].
    intros j inside. apply others; [tauto | intros ->; tauto].
  - rewrite (others a); [| tauto | intros ->; tauto]. rewrite IH; [ring | assumption | assumption |].
    intros j inside other. apply others; tauto.
Qed.

Section OneRound.

(* An inner product space. *)
Variable V : Type.
Variables (zero : V) (add : V -> V -> V) (scale : R -> V -> V) (dot : V -> V -> R).
Hypothesis dot_sym : forall u v, dot u v = dot v u.
Hypothesis dot_zero : forall v, dot zero v = 0.
Hypothesis dot_add : forall u v x, dot (add u v) x = dot u x + dot v x.
Hypothesis dot_scale : forall c u x, dot (scale c u) x = c * dot u x.
Hypothesis dot_pos : forall v, 0 <= dot v v.

Lemma dot_add_r u v x : dot x (add u v) = dot x u + dot x v.
Proof. rewrite dot_sym, dot_add, (dot_sym u), (dot_sym v). reflexivity. Qed.

Lemma dot_scale_r c u x : dot x (scale c u) = c * dot x u.
Proof. rewrite dot_sym, dot_scale, (dot_sym u). reflexivity. Qed.

Lemma dot_zero_r v : dot v zero = 0.
Proof. rewrite dot_sym. apply dot_zero. Qed.

Definition minus (u v : V) : V := add u (scale (-1) v).

Fixpoint sum {A : Type} (f : A -> V) (l : list A) : V :=
  match l with [] => zero | a :: rest => add (f a) (sum f rest) end.

Lemma dot_sum {A : Type} (f : A -> V) l x : dot (sum f l) x = total (fun a => dot (f a) x) l.
Proof. induction l as [| a l IH]; simpl; [apply dot_zero | rewrite dot_add, IH; reflexivity]. Qed.

Lemma dot_sum_r {A : Type} (f : A -> V) l x : dot x (sum f l) = total (fun a => dot x (f a)) l.
Proof. rewrite dot_sym, dot_sum. apply total_ext. intros. apply dot_sym. Qed.

Ltac expand := unfold minus;
  repeat first [rewrite dot_add | rewrite dot_add_r | rewrite dot_scale | rewrite dot_scale_r | rewrite dot_zero
               | rewrite dot_zero_r].
Ltac expand_in h := unfold minus in h;
  repeat first [rewrite dot_add in h | rewrite dot_add_r in h | rewrite dot_scale in h | rewrite dot_scale_r in h
               | rewrite dot_zero in h | rewrite dot_zero_r in h].

(* S2. *)
Lemma polarisation u v : dot u v = (dot u u + dot v v - dot (minus u v) (minus u v)) / 2.
Proof.
  unfold minus. rewrite !dot_add, !dot_add_r, !dot_scale, !dot_scale_r, (dot_sym v u). field.
Qed.

Lemma young theta x y : 0 < theta ->
  dot (add x y) (add x y) <= (1 + theta) * dot x x + (1 + 1 / theta) * dot y y.
Proof.
  intros positive. assert (square := dot_pos (minus (scale theta x) y)).
  unfold minus in square. rewrite !dot_add, !dot_add_r, !dot_scale, !dot_scale_r, (dot_sym y x) in *.
  assert (whole_square : 0 <= (theta * theta * dot x x - 2 * theta * dot x y + dot y y) / theta).
  { apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; assumption]. }
  assert ((theta * theta * dot x x - 2 * theta * dot x y + dot y y) / theta
    = theta * dot x x - 2 * dot x y + 1 / theta * dot y y) by (field; lra).
  lra.
Qed.

(* Participants J with weights beta; outcomes O of the noise with probabilities P. *)
Variables (I Outcome : Type) (J : list I) (O : list Outcome) (beta : I -> R) (P : Outcome -> R).
Hypothesis distinct : NoDup J.
Hypothesis chances : forall o, In o O -> 0 <= P o.
Hypothesis whole : total P O = 1.

Definition mean (f : Outcome -> R) : R := total (fun o => P o * f o) O.
Definition mixed (f : I -> V) : V := sum (fun j => scale (beta j) (f j)) J.

Lemma mean_ext f g : (forall o, f o = g o) -> mean f = mean g.
Proof. intros same. apply total_ext. intros o _. rewrite same. reflexivity. Qed.

Lemma mean_plus f g : mean (fun o => f o + g o) = mean f + mean g.
Proof. unfold mean. rewrite <- total_plus. apply total_ext. intros. ring. Qed.

Lemma mean_times c f : mean (fun o => c * f o) = c * mean f.
Proof. unfold mean. rewrite <- total_times. apply total_ext. intros. ring. Qed.

Lemma mean_constant c : mean (fun _ => c) = c.
Proof.
  unfold mean. rewrite (total_ext _ (fun o => c * P o)) by (intros; ring).
  rewrite total_times, whole. ring.
Qed.

Lemma mean_le f g : (forall o, f o <= g o) -> mean f <= mean g.
Proof.
  intros less. unfold mean. apply total_le. intros o inside. apply Rmult_le_compat_l; auto.
Qed.

Lemma mean_total (f : I -> Outcome -> R) (c : I -> R) :
  mean (fun o => total (fun j => c j * f j o) J) = total (fun j => c j * mean (f j)) J.
Proof.
  unfold mean. rewrite (total_ext _ (fun o => total (fun j => c j * (P o * f j o)) J)).
  - rewrite total_swap. apply total_ext. intros j _. apply total_times.
  - intros o _. rewrite <- total_times. apply total_ext. intros j _. ring.
Qed.

Lemma dot_mixed f x : dot (mixed f) x = total (fun j => beta j * dot (f j) x) J.
Proof. unfold mixed. rewrite dot_sum. apply total_ext. intros j _. apply dot_scale. Qed.

(* Of two mixtures only the products of a participant with itself are left where all others have the mean zero. *)
Lemma mean_products (f g : Outcome -> I -> V) most :
  (forall i j, In i J -> In j J -> i <> j -> mean (fun o => dot (f o i) (g o j)) = 0) ->
  (forall j, In j J -> mean (fun o => dot (f o j) (g o j)) <= most) ->
  mean (fun o => dot (mixed (f o)) (mixed (g o))) <= most * total (fun j => beta j * beta j) J.
Proof.
  intros apart own.
  rewrite (mean_ext _ (fun o => total (fun i => beta i * dot (f o i) (mixed (g o))) J)) by (intros; apply dot_mixed).
  rewrite (mean_total (fun i o => dot (f o i) (mixed (g o)))). rewrite <- total_times. apply total_le. intros i inside.
  rewrite (mean_ext _ (fun o => total (fun j => beta j * dot (f o i) (g o j)) J)).
  - rewrite (mean_total (fun j o => dot (f o i) (g o j))). rewrite (total_single _ J i distinct inside).
    + assert (bounded := own i inside). assert (0 <= beta i * beta i) by apply Rle_0_sqr.
      rewrite (Rmult_comm most), <- Rmult_assoc. apply Rmult_le_compat_l; assumption.
    + intros j there other. rewrite apart by (auto; congruence). ring.
  - intros o. rewrite dot_sym, dot_mixed. apply total_ext. intros j _. rewrite dot_sym. reflexivity.
Qed.

Lemma mean_mixed (f : Outcome -> I -> V) x :
  mean (fun o => dot (mixed (f o)) x) = total (fun j => beta j * mean (fun o => dot (f o j) x)) J.
Proof.
  rewrite (mean_ext _ (fun o => total (fun j => beta j * dot (f o j) x) J)) by (intros; apply dot_mixed).
  apply (mean_total (fun j o => dot (f o j) x)).
Qed.

(* Jensen: the square of a mixture is at most the mixture of the squares. *)
Lemma jensen d : (forall j, In j J -> 0 <= beta j) -> total beta J = 1 ->
  dot (mixed d) (mixed d) <= total (fun j => beta j * dot (d j) (d j)) J.
Proof.
  intros weights one. set (S := mixed d).
  assert (spread : 0 <= total (fun j => beta j * dot (minus (d j) S) (minus (d j) S)) J).
  { rewrite <- (total_zero J). apply total_le. intros j inside. apply Rmult_le_pos; [auto | apply dot_pos]. }
  rewrite (total_ext _ (fun j => beta j * dot (d j) (d j) + ((-2) * (beta j * dot (d j) S) + dot S S * beta j)))
    in spread.
  - rewrite !total_plus, !total_times, one in spread. rewrite <- dot_mixed in spread. fold S in spread. lra.
  - intros j _. expand. rewrite (dot_sym S (d j)). ring.
Qed.

Variables (F : V -> R) (w slope : V) (L gamma sigma2 : R).
Hypothesis descent : forall v, F (add w v) <= F w + dot slope v + L / 2 * dot v v.

Section SingleStep.

Variables (grad : I -> V) (xi : Outcome -> I -> V).
Hypothesis mean_zero : forall j, In j J -> forall x, mean (fun o => dot (xi o j) x) = 0.
Hypothesis uncorrelated : forall i j, In i J -> In j J -> i <> j -> mean (fun o => dot (xi o i) (xi o j)) = 0.
Hypothesis variance : forall j, In j J -> mean (fun o => dot (xi o j) (xi o j)) <= sigma2.
Hypothesis step : 0 < gamma /\ 0 <= L /\ gamma * L <= 1.

Let H : V := mixed grad.
Let N (o : Outcome) : V := mixed (xi o).
Let after (o : Outcome) : V := add w (scale (- gamma) (add H (N o))).

Lemma mean_noise x : mean (fun o => dot (N o) x) = 0.
Proof.
  rewrite (mean_ext _ (fun o => total (fun j => beta j * dot (xi o j) x) J)) by (intros; apply dot_mixed).
  rewrite (mean_total (fun j o => dot (xi o j) x)). rewrite (total_ext _ (fun _ => 0)); [apply total_zero |].
  intros j inside. rewrite mean_zero by assumption. ring.
Qed.

Theorem one_round :
  gamma / 2 * dot slope slope
  <= F w - mean (fun o => F (after o))
     + gamma / 2 * dot (minus slope H) (minus slope H)
     + L * (gamma * gamma) / 2 * sigma2 * total (fun j => beta j * beta j) J.
Proof.
  destruct step as [positive [smooth short]].
  assert (upper : mean (fun o => F (after o))
    <= F w - gamma * dot slope H + L * (gamma * gamma) / 2 * dot H H
       + L * (gamma * gamma) / 2 * mean (fun o => dot (N o) (N o))).
  { apply Rle_trans with (mean (fun o =>
      (F w - gamma * dot slope H + L * (gamma * gamma) / 2 * dot H H)
      + (- gamma * dot (N o) slope + (L * (gamma * gamma) * dot (N o) H
      + L * (gamma * gamma) / 2 * dot (N o) (N o))))).
    - apply mean_le. intros o. unfold after.
      eapply Rle_trans; [apply descent |]. apply Req_le.
      rewrite !dot_scale_r, !dot_scale, !dot_add_r, !dot_add, (dot_sym H (N o)), (dot_sym slope (N o)). field.
    - apply Req_le. rewrite mean_plus, mean_constant, mean_plus, mean_times, mean_noise, mean_plus, mean_times,
        mean_noise, mean_times. ring. }
  assert (noise : mean (fun o => dot (N o) (N o)) <= sigma2 * total (fun j => beta j * beta j) J)
    by exact (mean_products xi xi sigma2 uncorrelated variance).
  assert (weight : 0 <= L * (gamma * gamma) / 2) by nra.
  assert (paid : L * (gamma * gamma) / 2 * mean (fun o => dot (N o) (N o))
    <= L * (gamma * gamma) / 2 * (sigma2 * total (fun j => beta j * beta j) J))
    by (apply Rmult_le_compat_l; assumption).
  assert (left_over : L * (gamma * gamma) * dot H H <= gamma * dot H H).
  { apply Rmult_le_compat_r; [apply dot_pos | nra]. }
  assert (split := polarisation slope H).
  assert (gamma * dot slope H
    = gamma / 2 * dot slope slope + gamma / 2 * dot H H - gamma / 2 * dot (minus slope H) (minus slope H))
    by (rewrite split; field).
  lra.
Qed.

End SingleStep.

Section TwoSteps.

(* Each participant goes to first o j and from there on; the second step's noise knows nothing of the first's. *)
Variables (grad : I -> V -> V) (xi zeta : Outcome -> I -> V) (theta : R).
Hypothesis shares : (forall j, In j J -> 0 <= beta j) /\ total beta J = 1.
Hypothesis smooth : forall j u v, In j J ->
  dot (minus (grad j u) (grad j v)) (minus (grad j u) (grad j v)) <= L * L * dot (minus u v) (minus u v).
Hypothesis mean_zero : forall j, In j J -> forall x, mean (fun o => dot x (xi o j)) = 0.
Hypothesis apart : forall i j, In i J -> In j J -> i <> j ->
  forall f : V -> V, mean (fun o => dot (f (xi o i)) (xi o j)) = 0.
Hypothesis later : forall i j, In i J -> In j J ->
  forall f : V -> V, mean (fun o => dot (f (xi o i)) (zeta o j)) = 0.
Hypothesis uncorrelated : forall i j, In i J -> In j J -> i <> j -> mean (fun o => dot (zeta o i) (zeta o j)) = 0.
Hypothesis variance : forall j, In j J ->
  mean (fun o => dot (xi o j) (xi o j)) <= sigma2 /\ mean (fun o => dot (zeta o j) (zeta o j)) <= sigma2.
Hypothesis step : 0 < gamma /\ 0 < L /\ 2 * gamma * L <= 1 /\ 0 < theta.

Let first (j : I) (x : V) : V := add w (scale (- gamma) (add (grad j w) x)).
Let slopes (j : I) (x : V) : V := scale (1 / 2) (add (grad j w) (grad j (first j x))).
Let noises (o : Outcome) (j : I) : V := scale (1 / 2) (add (xi o j) (zeta o j)).
Let H (o : Outcome) : V := mixed (fun j => slopes j (xi o j)).
Let N (o : Outcome) : V := mixed (noises o).
Let after (o : Outcome) : V := add w (scale (- (2 * gamma)) (add (H o) (N o))).
Let B : V := mixed (fun j => grad j w).
Let beta2 : R := total (fun j => beta j * beta j) J.
Let D : R := total (fun j => beta j * (gamma * gamma * (dot (grad j w) (grad j w) + sigma2) / 2)) J.

(* I2: a deviation follows a participant's own, earlier noise by L gamma at most. *)
Lemma own_noise j : In j J -> mean (fun o => dot (slopes j (xi o j)) (xi o j)) <= L * gamma * sigma2 / 2.
Proof.
  intros inside. destruct step as [positive [rough _]]. destruct (variance j inside) as [bounded _].
  assert (free := mean_zero j inside (slopes j zero)).
  apply Rle_trans with (mean (fun o => dot (slopes j zero) (xi o j) + L * gamma / 2 * dot (xi o j) (xi o j))).
  - apply mean_le. intros o. unfold slopes. rewrite !dot_scale, !dot_add.
    set (u := grad j (first j (xi o j))). set (v := grad j (first j zero)). set (x := xi o j).
    assert (near : dot (minus u v) (minus u v) <= L * L * (gamma * gamma * dot x x)).
    { eapply Rle_trans; [apply smooth; assumption |]. apply Req_le. f_equal. unfold first, x. expand.
      rewrite (dot_sym (xi o j) w), (dot_sym (grad j w) w), (dot_sym (xi o j) (grad j w)). ring. }
    assert (square := dot_pos (minus (minus u v) (scale (L * gamma) x))).
    expand_in square. expand_in near.
    rewrite ?(dot_sym x u), ?(dot_sym x v), ?(dot_sym v u) in *.
    assert (0 < L * gamma) by nra.
    assert (L * gamma * (dot u x - dot v x) <= L * gamma * (L * gamma * dot x x)) by lra.
    assert (dot u x - dot v x <= L * gamma * dot x x) by (eapply Rmult_le_reg_l; eassumption). lra.
  - rewrite mean_plus, mean_times, free.
    assert (0 <= L * gamma / 2) by nra. nra.
Qed.

Lemma later_zero j x : In j J -> mean (fun o => dot x (zeta o j)) = 0.
Proof. intros inside. exact (later j j inside inside (fun _ => x)). Qed.

Lemma cross : mean (fun o => dot (H o) (N o)) <= L * gamma * sigma2 / 4 * beta2.
Proof.
  apply (mean_products (fun o j => slopes j (xi o j)) noises).
  - intros i j there here other. unfold noises.
    rewrite (mean_ext _ (fun o => 1 / 2 * (dot (slopes i (xi o i)) (xi o j) + dot (slopes i (xi o i)) (zeta o j)))).
    + rewrite mean_times, mean_plus, (apart i j) by assumption. rewrite (later i j) by assumption. ring.
    + intros o. rewrite dot_scale_r, dot_add_r. ring.
  - intros j inside. unfold noises. assert (own := own_noise j inside).
    rewrite (mean_ext _ (fun o => 1 / 2 * (dot (slopes j (xi o j)) (xi o j) + dot (slopes j (xi o j)) (zeta o j)))).
    + rewrite mean_times, mean_plus, (later j j) by assumption. lra.
    + intros o. rewrite dot_scale_r, dot_add_r. ring.
Qed.

Lemma noise_size : mean (fun o => dot (N o) (N o)) <= sigma2 / 2 * beta2.
Proof.
  apply (mean_products noises noises).
  - intros i j there here other. unfold noises.
    rewrite (mean_ext _ (fun o => 1 / 4 * ((dot (xi o i) (xi o j) + dot (xi o i) (zeta o j))
      + (dot (xi o j) (zeta o i) + dot (zeta o i) (zeta o j))))).
    + rewrite mean_times, !mean_plus, uncorrelated by assumption.
      rewrite (apart i j there here other (fun x => x)), (later i j there here (fun x => x)),
        (later j i here there (fun x => x)). ring.
    + intros o. expand. rewrite (dot_sym (zeta o i) (xi o j)). field.
  - intros j inside. unfold noises. destruct (variance j inside) as [one two].
    rewrite (mean_ext _ (fun o => 1 / 4 * ((dot (xi o j) (xi o j) + 2 * dot (xi o j) (zeta o j))
      + dot (zeta o j) (zeta o j)))).
    + rewrite mean_times, !mean_plus, mean_times, (later j j inside inside (fun x => x)). lra.
    + intros o. expand. rewrite (dot_sym (zeta o j) (xi o j)). field.
Qed.

Lemma no_drift x : mean (fun o => dot (N o) x) = 0.
Proof.
  unfold N. rewrite mean_mixed. rewrite (total_ext _ (fun _ => 0)); [apply total_zero |].
  intros j inside. unfold noises.
  rewrite (mean_ext _ (fun o => 1 / 2 * (dot x (xi o j) + dot x (zeta o j)))).
  - rewrite mean_times, mean_plus, mean_zero, later_zero by assumption. ring.
  - intros o. expand. rewrite (dot_sym (xi o j)), (dot_sym (zeta o j)). ring.
Qed.

(* I1 and I3: labels and drift. *)
Lemma drift : mean (fun o => dot (minus B (H o)) (minus B (H o))) <= L * L * D.
Proof.
  destruct shares as [weights one]. destruct step as [positive [rough _]].
  apply Rle_trans with (mean (fun o => total (fun j => beta j * dot (minus (grad j w) (slopes j (xi o j)))
    (minus (grad j w) (slopes j (xi o j)))) J)).
  - apply mean_le. intros o.
    set (d := fun j => minus (grad j w) (slopes j (xi o j))).
    assert (same : forall x, dot (mixed d) x = dot (minus B (H o)) x).
    { intros x. unfold B, H. unfold minus at 1. rewrite dot_add, dot_scale, !dot_mixed, <- total_times, <- total_plus.
      apply total_ext. intros j _. unfold d. unfold minus. rewrite dot_add, dot_scale. ring. }
    assert (square : dot (minus B (H o)) (minus B (H o)) = dot (mixed d) (mixed d)).
    { rewrite <- (same (minus B (H o))). rewrite (dot_sym (mixed d) (minus B (H o))). symmetry. apply same. }
    rewrite square. apply jensen; assumption.
  - rewrite (mean_total (fun j o => dot (minus (grad j w) (slopes j (xi o j))) (minus (grad j w) (slopes j (xi o j))))).
    unfold D. rewrite <- total_times. apply total_le. intros j inside.
    destruct (variance j inside) as [bounded _].
    assert (0 <= mean (fun o => dot (xi o j) (xi o j)))
      by (rewrite <- (mean_constant 0); apply mean_le; intros; apply dot_pos).
    assert (0 <= dot (grad j w) (grad j w)) by apply dot_pos.
    assert (near : mean (fun o => dot (minus (grad j w) (slopes j (xi o j))) (minus (grad j w) (slopes j (xi o j))))
      <= L * L * (gamma * gamma) / 4 * (dot (grad j w) (grad j w) + sigma2)).
    { apply Rle_trans with (mean (fun o => L * L * (gamma * gamma) / 4
        * (dot (grad j w) (grad j w) + (2 * dot (grad j w) (xi o j) + dot (xi o j) (xi o j))))).
      - apply mean_le. intros o. unfold slopes.
        assert (moved := smooth j w (first j (xi o j)) inside).
        set (u := grad j w) in *. set (v := grad j (first j (xi o j))) in *.
        assert (half : dot (minus u (scale (1 / 2) (add u v))) (minus u (scale (1 / 2) (add u v)))
          = 1 / 4 * dot (minus u v) (minus u v)) by (expand; rewrite (dot_sym v u); field).
        rewrite half.
        assert (path : dot (minus w (first j (xi o j))) (minus w (first j (xi o j)))
          = gamma * gamma * (dot u u + (2 * dot u (xi o j) + dot (xi o j) (xi o j)))).
        { unfold first, u. expand.
          rewrite (dot_sym (grad j w) w), (dot_sym (xi o j) w), (dot_sym (xi o j) (grad j w)). ring. }
        rewrite path in moved. lra.
      - rewrite mean_times, mean_plus, mean_constant, mean_plus, mean_times, mean_zero by assumption.
        apply Rmult_le_compat_l; [| lra]. assert (0 <= (L * gamma) * (L * gamma)) by apply Rle_0_sqr. lra. }
    assert (0 <= beta j) by auto.
    assert (0 <= (L * gamma) * (L * gamma)) by apply Rle_0_sqr.
    assert (double : L * L * (gamma * gamma) / 4 * (dot (grad j w) (grad j w) + sigma2)
      <= L * L * (gamma * gamma * (dot (grad j w) (grad j w) + sigma2) / 2)).
    { assert (0 <= (L * gamma) * (L * gamma) * (dot (grad j w) (grad j w) + sigma2)) by (apply Rmult_le_pos; lra).
      lra. }
    assert (beta j * mean (fun o => dot (minus (grad j w) (slopes j (xi o j))) (minus (grad j w) (slopes j (xi o j))))
      <= beta j * (L * L * (gamma * gamma * (dot (grad j w) (grad j w) + sigma2) / 2)))
      by (apply Rmult_le_compat_l; [assumption | lra]).
    lra.
Qed.

Theorem two_steps :
  gamma * dot slope slope
  <= F w - mean (fun o => F (after o))
     + gamma * ((1 + theta) * dot (minus slope B) (minus slope B) + (1 + 1 / theta) * (L * L * D))
     + (1 / 2 + L * gamma / 2) * L * (gamma * gamma) * 2 * sigma2 * beta2.
Proof.
  destruct step as [positive [rough [short split]]].
  assert (upper : mean (fun o => F (after o))
    <= F w - 2 * gamma * mean (fun o => dot slope (H o)) + 2 * L * (gamma * gamma) * (mean (fun o => dot (H o) (H o))
       + 2 * mean (fun o => dot (H o) (N o)) + mean (fun o => dot (N o) (N o)))).
  { apply Rle_trans with (mean (fun o => F w + (- (2 * gamma) * dot slope (H o) + (- (2 * gamma) * dot (N o) slope
      + (2 * L * (gamma * gamma) * (dot (H o) (H o) + (2 * dot (H o) (N o) + dot (N o) (N o)))))))).
    - apply mean_le. intros o. unfold after. eapply Rle_trans; [apply descent |]. apply Req_le.
      rewrite !dot_scale_r, !dot_scale, !dot_add_r, !dot_add, (dot_sym (N o) (H o)), (dot_sym (N o) slope). field.
    - apply Req_le. rewrite !mean_plus, !mean_times, !mean_plus, mean_constant, no_drift, !mean_times. ring. }
  assert (noise := noise_size). assert (mixed_terms := cross). assert (moved := drift).
  assert (error : mean (fun o => dot (minus slope (H o)) (minus slope (H o)))
    <= (1 + theta) * dot (minus slope B) (minus slope B) + (1 + 1 / theta) * (L * L * D)).
  { apply Rle_trans with (mean (fun o => (1 + theta) * dot (minus slope B) (minus slope B)
      + (1 + 1 / theta) * dot (minus B (H o)) (minus B (H o)))).
    - apply mean_le. intros o.
      assert (parts : dot (minus slope (H o)) (minus slope (H o))
        = dot (add (minus slope B) (minus B (H o))) (add (minus slope B) (minus B (H o)))).
      { expand. rewrite (dot_sym B slope), (dot_sym (H o) slope), (dot_sym (H o) B). ring. }
      rewrite parts. apply young. assumption.
    - rewrite mean_plus, mean_constant, mean_times. apply Rplus_le_compat_l. apply Rmult_le_compat_l; [| assumption].
      assert (0 < / theta) by (apply Rinv_0_lt_compat; assumption). lra. }
  assert (polar : mean (fun o => dot slope (H o)) = (dot slope slope + mean (fun o => dot (H o) (H o))
    - mean (fun o => dot (minus slope (H o)) (minus slope (H o)))) / 2).
  { rewrite (mean_ext (fun o => dot slope (H o)) (fun o => 1 / 2 * dot slope slope + (1 / 2 * dot (H o) (H o)
      + (- (1 / 2)) * dot (minus slope (H o)) (minus slope (H o))))).
    - rewrite !mean_plus, mean_constant, !mean_times. field.
    - intros o. rewrite (polarisation slope (H o)). field. }
  assert (size : 0 <= mean (fun o => dot (H o) (H o)))
    by (rewrite <- (mean_constant 0); apply mean_le; intros; apply dot_pos).
  assert (left_over :
    2 * L * (gamma * gamma) * mean (fun o => dot (H o) (H o)) <= gamma * mean (fun o => dot (H o) (H o))).
  { apply Rmult_le_compat_r; [assumption | nra]. }
  assert (weight : 0 <= 2 * L * (gamma * gamma)) by nra.
  assert (paid : 2 * L * (gamma * gamma) * (2 * mean (fun o => dot (H o) (N o)) + mean (fun o => dot (N o) (N o)))
    <= 2 * L * (gamma * gamma) * (2 * (L * gamma * sigma2 / 4 * beta2) + sigma2 / 2 * beta2))
    by (apply Rmult_le_compat_l; [assumption | lra]).
  assert (errors : gamma * mean (fun o => dot (minus slope (H o)) (minus slope (H o)))
    <= gamma * ((1 + theta) * dot (minus slope B) (minus slope B) + (1 + 1 / theta) * (L * L * D)))
    by (apply Rmult_le_compat_l; [lra | assumption]).
  rewrite polar in upper. lra.
Qed.

End TwoSteps.

End OneRound.

Print Assumptions one_round.
Print Assumptions two_steps.
